"""Networks that are trained together on labeled and unlabeled cases: cross teaching and online distillation."""

from pathlib import Path
from typing import Any

import numpy as np

from nnunet_kd.teaching.peer import freeze_side_outputs
from nnunet_kd.teaching.peers import STATE, Peers
from nnunet_kd.utilities.curves import Panel
from nnunet_kd.utilities.ranks import gather

from .student import nnUNetTrainerKDStudent


class nnUNetTrainerKDCrossTeaching(nnUNetTrainerKDStudent):
    """Two teachers that teach each other on unlabeled cases, and a student that learns from both, at the same time.

    The student is ``self.network``; the other networks are those of :class:`Peers`, which says what they teach.

    Source: Choi 2022, Section 2.2, 3.2 and Table 3. *Deviation*: gradients are clipped to norm 12, for each network, as
    nnU-Net does.
    """

    source = Peers
    teaching: Peers
    network: Any
    _mirror_axes: Any = None
    _keeps_peers = True

    def uses_lower_outputs(self) -> bool:
        """As ``kd.cross_teaching.deep_supervision`` says."""
        return super().uses_lower_outputs() and self.kd.cross_teaching.deep_supervision

    def initialize(self) -> None:
        """Also draws the pseudo Dice of every network, so that one that diverges or collapses is seen."""
        super().initialize()
        curves = {"student": "mean_fg_dice", **{n.removeprefix("kd_dice_"): n for n in self._dice_curves}}
        self.progress.panels.append(Panel(curves, "pseudo Dice, validation patches"))

    @property
    def _dice_curves(self) -> list[str]:
        return [f"kd_dice_{n}" for n in self.teaching.names]

    def _register_curves(self, past_epochs: int) -> None:
        super()._register_curves(past_epochs)
        log = self.progress.my_fantastic_logging
        for name in self._dice_curves:
            log.setdefault(name, [float("nan")] * past_epochs)

    def configure_optimizers(self):
        """The student's; outputs that are not used are left out."""
        if not self.enable_deep_supervision:
            freeze_side_outputs(self.bare_network)
        return self.make_optimizer(p for p in self.network.parameters() if p.requires_grad)

    def mirrors_patches(self) -> bool:
        """Also where the student is not mirrored at prediction: its teachers are."""
        return self.kd.augmentation.mirroring is not False

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """Remembers the axes of the augmentation: exported networks may be mirrored along them."""
        result = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self._mirror_axes = result[3]
        return result

    def on_validation_epoch_start(self) -> None:
        """Also for the other networks."""
        super().on_validation_epoch_start()
        for peer in self.teaching.peers:
            peer.network.eval()

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's, for the student and every other network."""
        result = super().validation_step(_copy_target(batch))
        student = self.network
        try:
            for peer in self.teaching.peers:
                self.network = peer.network
                theirs = super().validation_step(_copy_target(batch))
                result |= {f"{peer.name}_{k}": theirs[k] for k in ("tp_hard", "fp_hard", "fn_hard")}
        finally:
            self.network = student
        return result

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """nnU-Net's pseudo Dice of the student, and the same of every other network."""
        super().on_validation_epoch_end(val_outputs)
        for peer in self.teaching.peers:
            tp, fp, fn = (
                np.sum(gather(np.sum([o[f"{peer.name}_{k}_hard"] for o in val_outputs], 0)), 0)
                for k in ("tp", "fp", "fn")
            )
            with np.errstate(invalid="ignore"):  # a class that no patch had
                dice = 2 * tp / (2 * tp + fp + fn)
            self.logger.log(f"kd_dice_{peer.name}", float(np.nanmean(dice)), self.current_epoch)

    def on_epoch_end(self) -> None:
        """Prints the pseudo Dice of every network."""
        log, curves = self.progress.my_fantastic_logging, self.progress.panels[-1].curves
        self.print_to_log_file("Pseudo dice of", {n: round(float(log[k][-1]), 4) for n, k in curves.items()})
        super().on_epoch_end()

    def save_checkpoint(self, filename: str) -> None:
        """The last checkpoint holds the student alone; those to resume from hold everything."""
        self._keeps_peers = Path(filename).name != "checkpoint_final.pth"
        super().save_checkpoint(filename)

    def extra_checkpoint_state(self) -> dict[str, Any]:
        """Without the other networks in the last checkpoint."""
        extra = super().extra_checkpoint_state()
        return extra if self._keeps_peers else {k: v for k, v in extra.items() if k != STATE}

    def end_teaching(self) -> None:
        """Exports the other networks."""
        if self.local_rank == 0 and not self.disable_checkpointing and self.kd.cross_teaching.export_teachers:
            self.teaching.export(Path(self.output_folder) / "checkpoint_final.pth", self._mirror_axes)
        super().end_teaching()


def _copy_target(batch: dict) -> dict:
    """nnU-Net 2.8 overwrites ignored voxels of the target in its validation step."""
    target = batch["target"]
    return {**batch, "target": [t.clone() for t in target] if isinstance(target, list) else target.clone()}
