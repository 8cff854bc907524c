"""What all trainers of students share: distillation terms and their curves, teachers, the end of a training."""

from pathlib import Path

import numpy as np

from nnunet_kd.losses import DistillationLoss, active_terms
from nnunet_kd.softlabels.export import Exporter, shard
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.softlabels.stores import missing_cases, open_store
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.gap import compare_validation
from nnunet_kd.trainers.base import nnUNetTrainerKDBase
from nnunet_kd.utilities.curves import append_curves
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.ranks import gather, number_of_ranks, waiting_for_all


class nnUNetTrainerKDStudent(nnUNetTrainerKDBase):
    """A student whose hard-label loss stays nnU-Net's ``self.loss`` and whose distillation terms are ``self.kd_loss``.

    Where the teachers' probabilities come from is the subclasses' part.
    """

    kd_loss: DistillationLoss
    is_student = True
    starts_from_teacher = True

    def initialize(self) -> None:
        """Builds the distillation loss and registers its curves."""
        super().initialize()
        weights = self.loss.weight_factors if self.enable_deep_supervision else (1.0,)
        self.kd_loss = DistillationLoss(self.kd.distillation, self.label_manager.has_regions, weights, self.is_ddp)
        self._register_curves(past_epochs=0)

    def uses_lower_outputs(self) -> bool:
        """Hard-label loss or distillation terms may do without them."""
        return super().uses_lower_outputs() and (self.kd.hard_loss.weight > 0 or self.kd.distillation.deep_supervision)

    @property
    def _curves(self) -> list[str]:
        return ["kd_hard", *(f"kd_{n}" for n in active_terms(self.kd.distillation))]

    def _register_curves(self, past_epochs: int) -> None:
        log = self.logger.local_logger.my_fantastic_logging
        for name in self._curves:
            log.setdefault(name, [float("nan")] * past_epochs)

    def load_checkpoint(self, filename_or_checkpoint, *args) -> None:
        """Also accepts checkpoints whose log lacks a term's curve."""
        super().load_checkpoint(filename_or_checkpoint, *args)
        self._register_curves(past_epochs=self.current_epoch)

    def export_missing(self, ensemble: TeachingEnsemble, cases: list[str]) -> SoftLabelStore:
        """The ensemble's store after the cases that it lacked were exported; under DDP the ranks share them."""
        store = open_store(ensemble)
        if missing := missing_cases(ensemble, store, cases):
            self.print_to_log_file(f"Soft labels of {len(missing)} cases are missing, exporting them to {store.folder}")
        # Shares are cut from all cases: what is missing changes while the other ranks export.
        mine = shard(cases, number_of_ranks(), self.local_rank)
        with waiting_for_all():
            Exporter(ensemble, self.device).run(mine, progress=bool(missing) and self.local_rank == 0)
        return store

    def describe_soft_labels(self, store: SoftLabelStore, training: list[str]) -> None:
        """Logs how well stored soft labels agree with the reference."""
        dice = np.array([store.record(c)["reference_dice"] for c in training], dtype=float)
        self.print_to_log_file(
            f"Soft labels against the reference, mean Dice of {len(training)} training cases: {np.nanmean(dice):.4f}"
        )

    def describe_teachers(self, ensemble: TeachingEnsemble, validation: list[str]) -> None:
        """Logs who teaches, and warns when teachers have seen the cases that will be validated."""
        self.print_to_log_file(f"Teachers: {ensemble.describe()}")
        if self.fold != "all" and (seen := ensemble.seen_by_teachers(validation)):
            self.print_to_log_file(
                f"WARNING: teachers were trained on {len(seen)} of {len(validation)} validation cases of this fold; "
                "its cross-validation Dice is optimistic. Test on other cases, or use ensemble.membership same_fold."
            )

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Logs one value per loss term and epoch, the mean over iterations and ranks."""
        super().on_train_epoch_end(train_outputs)
        for name in self._curves:
            value = float(np.mean([o[name] for o in train_outputs])) if name in train_outputs[0] else 0.0
            self.logger.log(name, float(np.mean(gather(value))), self.current_epoch)

    def on_epoch_end(self) -> None:
        """Prints the terms and draws their curves."""
        log = self.logger.local_logger.my_fantastic_logging
        self.print_to_log_file("loss terms", {n: round(log[n][-1], 4) for n in self._curves})
        super().on_epoch_end()
        if self.local_rank == 0:
            append_curves(Path(self.output_folder) / "progress.png", {n: log[n] for n in self._curves})

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation, then a comparison with the teachers that validated the same cases."""
        super().perform_actual_validation(save_probabilities)
        # A student of all cases was validated on its own training cases: no comparison would be fair.
        if self.local_rank == 0 and self.fold != "all" and self.kd.student.check_teachers:
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
