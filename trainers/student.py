"""What all trainers of students share: one training step, curves, the end of a training."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.paths import nnUNet_results

from nnunet_kd.config import KDConfig
from nnunet_kd.data.mixed_batches import mix_in, start_workers, without_last, without_workers
from nnunet_kd.losses import DistillationLoss
from nnunet_kd.losses.distillation import common_scale
from nnunet_kd.teachers.gap import compare_validation
from nnunet_kd.teaching.reference import Reference
from nnunet_kd.teaching.source import TeachingSource, Training, in_float32
from nnunet_kd.utilities.curves import Panel
from nnunet_kd.utilities.errors import UserError, exit_on_user_error
from nnunet_kd.utilities.ranks import gather

from .base import nnUNetTrainerKDBase

TEACHER_WEIGHTS = "kd_teacher_weights"


class nnUNetTrainerKDStudent(nnUNetTrainerKDBase):
    """A student whose hard-label loss stays nnU-Net's ``self.loss``, and whose soft-label terms are ``self.kd_loss``.

    What teaches it is a part, ``self.teaching``, whose class a subclass names.

    Attributes:
        source: where the teaching comes from.
    """

    source: type[TeachingSource]
    teaching: TeachingSource
    kd_loss: DistillationLoss | None = None  # none where there are no soft labels
    is_student = True

    @classmethod
    def source_for(cls, kd: KDConfig) -> type[TeachingSource]:
        """Where the teaching comes from, with these plans."""
        return cls.source

    def initialize(self) -> None:
        """Builds the distillation loss and registers its curves."""
        super().initialize()
        if self.teaching.gives_soft_labels:
            weights = self.loss.weight_factors if self.enable_deep_supervision else (1.0,)
            self.kd_loss = DistillationLoss(self.kd.distillation, self.label_manager.has_regions, weights, self.is_ddp)
        self._register_curves(past_epochs=0)
        note = "loss_tr is the sum of these terms; loss_val is the hard-label loss alone, without weight"
        self.progress.panels.append(Panel({n: n for n in self._curves}, "weighted loss term", note))

    def check_configuration(self) -> None:
        """Also what the source of the teaching cannot do."""
        super().check_configuration()
        self.teaching = self.source_for(self.kd)(
            Training(
                trainer=type(self).__name__,
                kd=self.kd,
                data=self.student_space(),
                results=Path(nnUNet_results) / self.plans_manager.dataset_name,
                ensemble=self.teaching_ensemble,
                fold=self.fold,
                device=self.device,
                cascaded=self.is_cascaded,
                deep_supervision=self.enable_deep_supervision,
                compiled=self._do_i_compile(),
                distributed=self.is_ddp,
                rank=self.local_rank,
                log=self.print_to_log_file,
                make_optimizer=self.make_optimizer,
                hard_label_loss=self.hard_label_loss,
            )
        )
        self.teaching.check()

    def uses_lower_outputs(self) -> bool:
        """Hard-label loss or distillation terms may do without them."""
        return super().uses_lower_outputs() and (self.kd.hard_loss.weight > 0 or self.kd.distillation.deep_supervision)

    def starts_from_teacher(self) -> bool:
        """Where there are trained teachers."""
        return self.teaching.has_teachers

    def unlabeled_per_batch(self) -> int:
        """As many as the source has chosen."""
        return self.teaching.unlabeled_per_batch

    def training_losses(self, data: torch.Tensor, target: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Hard-label loss, soft-label terms and what else the source teaches.

        Source: Noothout et al. 2022, Eq. 1; Qin et al. 2021, Eq. 9; Ben Loussaief et al. 2023, Eq. 5; Choi 2022,
        Section 2.2.

        Args:
            data: (B, C, *spatial): images, then what the source has added to them; the unlabeled cases come last.
            target: reference segmentation, as :meth:`hard_label_loss` takes it.
        """
        images, unlabeled = data[:, : self.num_input_channels], self.unlabeled_per_batch()
        heads, regions = self.label_manager.num_segmentation_heads, self.label_manager.has_regions
        reference = Reference(target, heads, regions, unlabeled)
        progress = self.current_epoch / self.num_epochs
        hard, terms = self.kd.hard_loss, {}

        with self.autocast():
            teaching = self.teaching.teach(data, images, reference)
            with self.teaching.watching_student():
                output = self.network(images)
        output = in_float32(output)  # (B, C, *spatial), or a list of them

        if hard.weight > 0:  # unlabeled cases have no reference
            terms["hard"] = hard.weight * self.hard_label_loss(
                without_last(unlabeled, output), without_last(unlabeled, target)
            )
        if self.kd_loss is not None and teaching.targets is not None:
            known, voxel_weight = self._known(reference), self.kd.unlabeled.voxel_weight
            terms |= self.kd_loss(output, teaching.targets, progress, unlabeled, voxel_weight, known)
            scale = common_scale(self.kd.distillation, hard, progress, known)
            terms = {name: scale * value for name, value in terms.items()}
        terms |= self.teaching.further_terms(output, teaching, target, reference, progress)

        logged = {f"kd_{name}": value for name, value in terms.items()}
        if teaching.weights is not None:
            logged[TEACHER_WEIGHTS] = teaching.weights
        return torch.stack(list(terms.values())).sum(), logged

    def _known(self, reference: Reference) -> torch.Tensor | None:
        """Voxels whose reference the hard-label loss counts, (B, 1, *spatial).

        None where it counts that of all, or no term asks.
        """
        if not self.kd.distillation.fades():
            return None
        if not self.kd.hard_loss.weight:
            return torch.zeros_like(reference.valid)
        partial = self.unlabeled_per_batch() or self.label_manager.has_ignore_label
        return reference.valid if partial else None

    def get_training_transforms(self, *args, **kwargs):
        """nnU-Net's transforms, applied to what the source has added to the images too."""
        cascade = len(self.label_manager.foreground_labels) if self.is_cascaded else 0
        transforms = super().get_training_transforms(*args, **kwargs)
        return self.teaching.wrap_transforms(transforms, self.num_input_channels - cascade)

    def get_tr_and_val_datasets(self):
        """Training cases with what the source needs of them; validation cases as they are."""
        training, validation = super().get_tr_and_val_datasets()
        with exit_on_user_error():
            return self.teaching.prepare(training, validation, self.batch_size), validation

    def get_dataloaders(self) -> Any:
        """nnU-Net's, with unlabeled cases behind the labeled ones of each training batch where there are any."""
        if not self.teaching.wants_unlabeled(self.kd):
            return super().get_dataloaders()
        with without_workers():
            training, validation = (a.data_loader for a in super().get_dataloaders())
        t = self.teaching
        if t.unlabeled is not None:
            training = mix_in(training, t.unlabeled, t.labeled_per_batch, t.unlabeled_per_batch, self.label_manager)
        return start_workers(training, validation, pin_memory=self.device.type == "cuda")

    def on_train_start(self) -> None:
        """Loads what teaches, then starts as nnU-Net does."""
        if not self.was_initialized:
            self.initialize()
        with exit_on_user_error():
            self.teaching.start(self.bare_network, self._resumed, self.current_epoch)
        super().on_train_start()

    def on_train_epoch_start(self) -> None:
        """Also for what is trained beside the student."""
        super().on_train_epoch_start()
        self.teaching.start_epoch(self.current_epoch)

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The student's, and those of what is trained beside it."""
        return [*super().optimizers(), *self.teaching.optimizers()]

    def extra_checkpoint_state(self) -> dict[str, Any]:
        """Also what is trained beside the student, for resuming; never in ``network_weights``."""
        return {**super().extra_checkpoint_state(), **self.teaching.state()}

    @property
    def _curves(self) -> list[str]:
        soft = [] if self.kd_loss is None else self.kd_loss.terms
        return [f"kd_{name}" for name in ("hard", *soft, *self.teaching.curves())]

    def _register_curves(self, past_epochs: int) -> None:
        log = self.progress.my_fantastic_logging
        for name in self._curves:
            log.setdefault(name, [float("nan")] * past_epochs)

    def load_checkpoint(self, filename_or_checkpoint, *args) -> None:
        """Also accepts checkpoints whose log lacks a term's curve."""
        super().load_checkpoint(filename_or_checkpoint, *args)
        self._register_curves(past_epochs=self.current_epoch)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Logs one value per loss term and epoch, the mean over iterations and ranks."""
        super().on_train_epoch_end(train_outputs)
        for name in self._curves:
            value = float(np.mean([o[name] for o in train_outputs])) if name in train_outputs[0] else 0.0
            self.logger.log(name, float(np.mean(gather(value))), self.current_epoch)

    def on_epoch_end(self) -> None:
        """Prints the terms."""
        log = self.progress.my_fantastic_logging
        self.print_to_log_file("loss terms", {n: round(log[n][-1], 4) for n in self._curves})
        super().on_epoch_end()

    def on_train_end(self) -> None:
        """Lets go of what teaches before nnU-Net validates."""
        super().on_train_end()
        with exit_on_user_error():
            self.end_teaching()

    def end_teaching(self) -> None:
        """After the last checkpoint."""
        self.teaching.stop()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation, then a comparison with the teachers that validated the same cases."""
        super().perform_actual_validation(save_probabilities)
        # A student of all cases was validated on its own training cases: no comparison would be fair.
        compares = self.teaching.has_teachers and self.kd.student.check_teachers
        if self.local_rank == 0 and self.fold != "all" and compares:
            self.compare_with_teachers()

    def compare_with_teachers(self) -> None:
        """Logs the Dice of student and teachers on the cases that both validated."""
        summary = Path(self.output_folder) / "validation" / "summary.json"
        try:
            lines = compare_validation(summary, self.teaching_ensemble().models)
        except UserError as error:  # the student is trained and validated: teachers that are gone must not fail it now
            lines = [f"No comparison with the teachers: {error}"]
        for line in lines:
            self.print_to_log_file(line)
