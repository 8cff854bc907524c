"""Offline distillation of an ensemble from stored soft labels."""

from typing import Any

import torch

from nnunet_kd.data.dataset import SoftLabelDataset, UnlabeledDataset
from nnunet_kd.data.mixed_batches import unlabeled_share, without_last
from nnunet_kd.data.transforms import with_soft_labels
from nnunet_kd.losses import active_terms, common_scale
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.trainers.unlabeled import nnUNetTrainerKDUnlabeled
from nnunet_kd.utilities.errors import UserError, exit_on_user_error


class nnUNetTrainerKDEnsemble(nnUNetTrainerKDUnlabeled):
    """Trains a student on image, hard label and the ensemble's stored soft label; unlabeled cases have the last only.

    Source: Noothout et al. 2022, Eq. 1 (hard + soft loss, best member first); Hinton et al. 2015 (temperature).
    The hard-label loss stays nnU-Net's ``self.loss``; the distillation terms are ``self.kd_loss``.
    """

    def check_configuration(self) -> None:
        """Refuses a student that would learn nothing, and a start from teachers that there are not."""
        super().check_configuration()
        if not active_terms(self.kd.distillation) and self.kd.hard_loss.weight == 0:
            raise UserError("kd.distillation: all weights are 0 and kd.hard_loss.weight too; nothing would be learned.")
        if self.kd.student.start == "best_member" and self.kd.ensemble.from_folder is not None:
            raise UserError(
                "kd.student.start: best_member needs teachers, but the soft labels were imported; use random."
            )
        if self.wants_unlabeled() and not active_terms(self.kd.distillation):
            raise UserError(
                "kd.unlabeled.fraction: unlabeled cases enter the soft-label terms only, but all weights of "
                "kd.distillation are 0; set one or set the fraction to 0."
            )

    def get_training_transforms(self, *args, **kwargs):
        """nnU-Net's transforms, applied to the soft labels too."""
        cascade = len(self.label_manager.foreground_labels) if self.is_cascaded else 0
        return with_soft_labels(super().get_training_transforms(*args, **kwargs), self.num_input_channels - cascade)

    def get_tr_and_val_datasets(self):
        """Training cases with soft labels, exported first where they are missing; validation cases as they are."""
        training, validation = super().get_tr_and_val_datasets()
        with exit_on_user_error():
            ensemble = self.teaching_ensemble()
            unlabeled = self._share_batches(ensemble.student)
            store = self.export_missing(ensemble, [*training.identifiers, *unlabeled])
            self.describe_soft_labels(store, training.identifiers)
            self.describe_teachers(ensemble, validation.identifiers)
            if unlabeled:
                self.unlabeled = UnlabeledDataset(ensemble.student, store)
        return SoftLabelDataset(training, store), validation

    def _share_batches(self, space: StudentSpace) -> list[str]:
        """Unlabeled cases that this training uses; sets how many of them, and of the labeled ones, are in a batch."""
        cases = space.unlabeled_cases if self.wants_unlabeled() else []
        self.labeled_per_batch, self.unlabeled_per_batch = self.batch_size, 0
        if self.wants_unlabeled() and not cases:
            self.print_to_log_file(
                f"WARNING: kd.unlabeled.fraction is {self.kd.unlabeled.fraction}, but {space.unlabeled_folder} holds "
                "no case: training on labeled cases only. Make them with nnUNetv2_kd preprocess-unlabeled."
            )
        if not cases:
            return []
        if self.batch_size < 2:
            raise UserError(
                "kd.unlabeled.fraction: a batch of 1 has no room for a labeled and an unlabeled case; plan with "
                "--batch_size 2 or more for each GPU."
            )
        self.unlabeled_per_batch = unlabeled_share(self.kd.unlabeled.fraction, self.batch_size)
        self.labeled_per_batch -= self.unlabeled_per_batch
        self.print_to_log_file(
            f"{self.unlabeled_per_batch} of {self.batch_size} cases of a batch are unlabeled, drawn from {len(cases)}"
        )
        return cases

    def compute_loss(
        self, output: Any, target: Any, data: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Hard-label loss plus the active distillation terms (Noothout et al. 2022, Eq. 1).

        The last ``unlabeled_per_batch`` cases enter the distillation terms only.
        """
        terms = {}
        if self.kd.hard_loss.weight > 0:
            labeled = without_last(self.unlabeled_per_batch, output), without_last(self.unlabeled_per_batch, target)
            terms["hard"] = self.kd.hard_loss.weight * self.hard_label_loss(*labeled)
        terms |= self.kd_loss(
            output,
            data[:, self.num_input_channels :],
            self.current_epoch / self.num_epochs,
            self.unlabeled_per_batch,
            self.kd.unlabeled.voxel_weight,
        )
        scale = common_scale(self.kd.distillation, self.kd.hard_loss, self.current_epoch / self.num_epochs)
        terms = {name: scale * value for name, value in terms.items()}
        return torch.stack(list(terms.values())).sum(), {f"kd_{k}": v for k, v in terms.items()}
