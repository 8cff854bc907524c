"""Networks that are trained together on labeled and unlabeled cases: cross teaching and online distillation."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_kd.config import KDConfig
from nnunet_kd.data.dataset import UnlabeledDataset
from nnunet_kd.data.mixed_batches import without_last
from nnunet_kd.losses.cross_teaching import CrossTeachingLoss
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.teaching.peers import Peer, export_peer, freeze_side_outputs, make_peer, model_folder, peer_plans
from nnunet_kd.trainers.unlabeled import nnUNetTrainerKDUnlabeled
from nnunet_kd.utilities.curves import append_curves
from nnunet_kd.utilities.errors import UserError, exit_on_user_error
from nnunet_kd.utilities.ranks import gather

STATE = "kd_cross_teaching"


class nnUNetTrainerKDCrossTeaching(nnUNetTrainerKDUnlabeled):
    """Two teachers that teach each other on unlabeled cases, and a student that learns from both, at the same time.

    The student is ``self.network``; the other networks exist only while training. A step takes one batch of labeled
    and one of unlabeled cases, and every network takes one optimizer step on the sum of all losses:

    * hard-label loss of every network, on the labeled cases;
    * divergence between the student and the teachers' mean, on all cases;
    * on the unlabeled cases, each teacher against the other's pseudo-labels, and the student against the mean's.

    Who teaches is detached, so that no network receives a gradient from a term in which it teaches.

    Source: Choi 2022, Section 2.2, 3.2 and Table 3. *Deviation*: gradients are clipped to norm 12, for each network, as
    nnU-Net does.
    """

    network: Any
    starts_from_teacher = False  # they are trained beside it
    peers: tuple[Peer, ...] = ()
    cross_teaching_loss: CrossTeachingLoss
    _peer_outputs: tuple[Any, ...] = ()
    _mirror_axes: Any = None

    def initialize(self) -> None:
        """Builds the student as nnU-Net does, and the loss between the networks."""
        with exit_on_user_error():
            kd = KDConfig.from_plans(self.plans_manager.plans)
        self.enable_deep_supervision = kd.cross_teaching.deep_supervision
        self.cross_teaching_loss = CrossTeachingLoss(kd.cross_teaching, self.label_manager.has_regions)
        super().initialize()

    def check_configuration(self) -> None:
        """Refuses a student that nothing teaches, and unlabeled cases from which nothing would be learned."""
        super().check_configuration()
        c = self.kd.cross_teaching
        if self.kd.hard_loss.weight == 0:
            raise UserError(
                "kd.hard_loss.weight: is 0, but networks that only teach each other learn nothing; set it to 1."
            )
        if c.unlabeled.weight > 0 and not (c.distills or c.supervises or c.crosses):
            raise UserError(
                "kd.cross_teaching.unlabeled.weight: nothing is learned from unlabeled cases with these networks and "
                "weights; set it to 0, or name networks in cross_teaching.teachers."
            )

    def wants_unlabeled(self) -> bool:
        """Whether anything is learned from unlabeled cases."""
        return self.kd.cross_teaching.unlabeled.weight > 0

    @property
    def peer_names(self) -> tuple[str, ...]:
        """Names of the networks beside the student."""
        c = self.kd.cross_teaching
        return ("student2",) if c.between == "students" else tuple(f"teacher{i + 1}" for i in range(len(c.teachers)))

    @property
    def _curves(self) -> list[str]:
        hard = [f"kd_hard_{n}" for n in self.peer_names]
        return ["kd_hard", *hard, *(f"kd_{n}" for n in self.cross_teaching_loss.terms())]

    @property
    def _dice_curves(self) -> list[str]:
        return [f"kd_dice_{n}" for n in self.peer_names]

    def _register_curves(self, past_epochs: int) -> None:
        super()._register_curves(past_epochs)
        log = self.logger.local_logger.my_fantastic_logging
        for name in self._dice_curves:
            log.setdefault(name, [float("nan")] * past_epochs)

    def configure_optimizers(self):
        """The student's; outputs that are not used are left out."""
        if not self.enable_deep_supervision:
            freeze_side_outputs(self.bare_network)
        return self.make_optimizer(p for p in self.network.parameters() if p.requires_grad)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self):
        """Remembers the axes of the augmentation: exported networks may be mirrored along them."""
        result = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self._mirror_axes = result[3]
        return result

    def get_tr_and_val_datasets(self):
        """nnU-Net's data sets; finds the unlabeled cases."""
        training, validation = super().get_tr_and_val_datasets()
        self.labeled_per_batch, self.unlabeled_per_batch = self.batch_size, 0
        if not self.wants_unlabeled():
            return training, validation
        with exit_on_user_error():
            space = self.student_space()
            if not space.unlabeled_cases:
                raise UserError(
                    f"{space.unlabeled_folder}: holds no case; make them with nnUNetv2_kd preprocess-unlabeled, or "
                    "train on labeled cases only with cross_teaching.unlabeled.weight=0."
                )
        self.unlabeled, self.unlabeled_per_batch = UnlabeledDataset(space, None), self.batch_size
        self.print_to_log_file(
            f"A step takes {self.batch_size} labeled and {self.batch_size} unlabeled cases, drawn from "
            f"{len(training.identifiers)} and {len(space.unlabeled_cases)}"
        )
        return training, validation

    def on_train_start(self) -> None:
        """Builds the other networks, then starts as nnU-Net does."""
        if not self.was_initialized:
            self.initialize()
        with exit_on_user_error():
            self._build_peers()
        super().on_train_start()

    def _build_peers(self) -> None:
        c, preprocessed = self.kd.cross_teaching, Path(nnUNet_preprocessed) / self.plans_manager.dataset_name
        self.peers = tuple(
            make_peer(
                name,
                peer_plans(self.plans_manager, self.configuration_name, teacher, name, preprocessed),
                self._build_network,
                self._wrap,
                self.make_optimizer,
            )
            for name, teacher in zip(self.peer_names, c.teachers, strict=True)
        )
        for peer, teacher in zip(self.peers, c.teachers, strict=True):
            number = sum(p.numel() for p in peer.bare_network.parameters())
            self.print_to_log_file(f"{peer.name}: network of {teacher}, {number:,} parameters")
        if self._resumed is not None:
            for peer, state in zip(self.peers, self._states_to_continue(), strict=True):
                peer.load_state(state)

    def _build_network(self, plans: dict[str, Any]) -> nn.Module:
        manager = PlansManager(plans)
        configuration = manager.get_configuration(self.configuration_name)
        network = nnUNetTrainer.build_network_architecture(
            manager,
            configuration,
            determine_num_input_channels(manager, configuration, self.dataset_json),
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        ).to(self.device)
        if not self.enable_deep_supervision:
            freeze_side_outputs(network)
        return network

    def _wrap(self, network: Any) -> Any:
        """What nnU-Net does with the student."""
        if self._do_i_compile():
            network = torch.compile(network)
        if self.is_ddp:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
            network = nn.parallel.DistributedDataParallel(network)
        return network

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """One for each network."""
        return [*super().optimizers(), *(p.optimizer for p in self.peers)]

    def run_network(self, images: Tensor) -> Any:
        """All networks see the same patches."""
        self._peer_outputs = tuple(p.network(images) for p in self.peers)
        return super().run_network(images)

    def compute_loss(self, output: Any, target: Any, data: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Hard-label loss of every network, and what they teach each other (Choi 2022, Section 2.2)."""
        outputs = [output, *(_float(o) for o in self._peer_outputs)]
        self._peer_outputs = ()
        names = ["hard", *(f"hard_{n}" for n in self.peer_names)]
        reference = without_last(self.unlabeled_per_batch, target)
        terms = {
            name: self.kd.hard_loss.weight * self.hard_label_loss(without_last(self.unlabeled_per_batch, o), reference)
            for name, o in zip(names, outputs, strict=True)
        }
        student, *others = (o[0] if isinstance(o, list | tuple) else o for o in outputs)
        labeled = len(student) - self.unlabeled_per_batch
        terms |= self.cross_teaching_loss(student, others, labeled, self.current_epoch / self.num_epochs)
        return torch.stack(list(terms.values())).sum(), {f"kd_{k}": v for k, v in terms.items()}

    def on_train_epoch_start(self) -> None:
        """Also prepares the other networks."""
        super().on_train_epoch_start()
        for peer in self.peers:
            peer.network.train()
            peer.schedule.step(self.current_epoch)

    def on_validation_epoch_start(self) -> None:
        """Also for the other networks."""
        super().on_validation_epoch_start()
        for peer in self.peers:
            peer.network.eval()

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's, for the student and every other network."""
        result = super().validation_step(_copy_target(batch))
        student = self.network
        try:
            for peer in self.peers:
                self.network = peer.network
                theirs = super().validation_step(_copy_target(batch))
                result |= {f"{peer.name}_{k}": theirs[k] for k in ("tp_hard", "fp_hard", "fn_hard")}
        finally:
            self.network = student
        return result

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """nnU-Net's pseudo Dice of the student, and the same of every other network."""
        super().on_validation_epoch_end(val_outputs)
        for peer in self.peers:
            tp, fp, fn = (
                np.sum(gather(np.sum([o[f"{peer.name}_{k}_hard"] for o in val_outputs], 0)), 0)
                for k in ("tp", "fp", "fn")
            )
            with np.errstate(invalid="ignore"):  # a class that no patch had
                dice = 2 * tp / (2 * tp + fp + fn)
            self.logger.log(f"kd_dice_{peer.name}", float(np.nanmean(dice)), self.current_epoch)

    def on_epoch_end(self) -> None:
        """Prints and draws the pseudo Dice of every network, so that one that diverges or collapses is seen."""
        log = self.logger.local_logger.my_fantastic_logging
        curves = {"student": log["mean_fg_dice"], **{n.removeprefix("kd_dice_"): log[n] for n in self._dice_curves}}
        self.print_to_log_file("Pseudo dice of", {n: round(float(v[-1]), 4) for n, v in curves.items()})
        super().on_epoch_end()
        if self.local_rank == 0:
            append_curves(Path(self.output_folder) / "progress.png", curves, "pseudo Dice, validation patches")

    def compare_with_teachers(self) -> None:
        """Nothing: these teachers were trained with the student, their curves are in the log."""

    def save_checkpoint(self, filename: str) -> None:
        """The last checkpoint holds the student alone; those to resume from hold everything."""
        self._keeps_peers = Path(filename).name != "checkpoint_final.pth"
        super().save_checkpoint(filename)

    def extra_checkpoint_state(self) -> dict[str, Any]:
        """The other networks with their optimizers, for resuming."""
        extra = super().extra_checkpoint_state()
        if not self._keeps_peers:
            return extra
        return {**extra, STATE: {"peers": [p.state() for p in self.peers]}}

    def _peer_folder(self, name: str) -> Path:
        results = Path(nnUNet_results) / self.plans_manager.dataset_name
        plans_name = f"{self.plans_manager.plans_name}_{name}"
        return model_folder(plans_name, type(self).__name__, self.configuration_name, results)

    def _states_to_continue(self) -> list[dict[str, Any]]:
        """States of the other networks, from the student's checkpoint or from their exported folders."""
        if self._resumed is not None and STATE in self._resumed:
            return self._resumed[STATE]["peers"]
        states = []
        for name in self.peer_names:
            file = self._peer_folder(name) / f"fold_{self.fold}" / "checkpoint_final.pth"
            checkpoint = load_checkpoint_file(file)
            if checkpoint["current_epoch"] != self.current_epoch:
                raise UserError(
                    f"{file}: is of epoch {checkpoint['current_epoch']}, the student is of epoch {self.current_epoch}; "
                    "they cannot be trained on together."
                )
            states.append({"weights": checkpoint["network_weights"], "optimizer": checkpoint["optimizer_state"]})
        return states

    def on_train_end(self) -> None:
        """Exports the other networks and lets go of them before nnU-Net validates."""
        super().on_train_end()
        if self.local_rank == 0 and not self.disable_checkpointing and self.kd.cross_teaching.export_teachers:
            checkpoint = load_checkpoint_file(Path(self.output_folder) / "checkpoint_final.pth")
            checkpoint["inference_allowed_mirroring_axes"] = self._mirror_axes
            with exit_on_user_error():
                for peer in self.peers:
                    folder = self._peer_folder(peer.name)
                    export_peer(peer, folder, self.fold, self.dataset_json, checkpoint)
                    self.print_to_log_file(f"{peer.name} is in {folder}")
        self.peers = ()


def _float(output: Any) -> Any:
    return [o.float() for o in output] if isinstance(output, list | tuple) else output.float()


def _copy_target(batch: dict) -> dict:
    """nnU-Net 2.8 overwrites ignored voxels of the target in its validation step."""
    target = batch["target"]
    return {**batch, "target": [t.clone() for t in target] if isinstance(target, list) else target.clone()}
