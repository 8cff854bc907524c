"""Offline distillation of an ensemble from stored soft labels."""

from typing import Any

import torch
from nnunet_kd.trainers.student import nnUNetTrainerKDStudent

from nnunet_kd.data.dataset import SoftLabelDataset
from nnunet_kd.data.transforms import with_soft_labels
from nnunet_kd.errors import UserError, exit_on_user_error
from nnunet_kd.losses import active_terms


class nnUNetTrainerKDEnsemble(nnUNetTrainerKDStudent):
    """Trains a student on image, hard label and the ensemble's stored soft label.

    Source: Noothout et al. 2022, Eq. 1 (hard + soft loss, best member first); Hinton et al. 2015 (temperature).
    The hard-label loss stays nnU-Net's ``self.loss``; the distillation terms are ``self.kd_loss``.
    """

    def check_configuration(self) -> None:
        """Refuses a student that would learn nothing, and a start from teachers that there are not."""
        if not active_terms(self.kd.distillation) and self.kd.hard_loss.weight == 0:
            raise UserError("kd.distillation: all weights are 0 and kd.hard_loss.weight too; nothing would be learned.")
        if self.kd.student.start == "best_member" and self.kd.ensemble.from_folder is not None:
            raise UserError(
                "kd.student.start: best_member needs teachers, but the soft labels were imported; use random."
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
            store = self.export_missing(ensemble, training.identifiers)
            self.describe_soft_labels(store, training.identifiers)
            self.describe_teachers(ensemble, validation.identifiers)
            if self.kd.student.start == "best_member" and self.current_epoch == 0:
                self.start_from_best_member(ensemble)
        return SoftLabelDataset(training, store), validation

    def compute_loss(
        self, output: Any, target: Any, data: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Hard-label loss plus the active distillation terms (Noothout et al. 2022, Eq. 1)."""
        terms = {}
        if self.kd.hard_loss.weight > 0:
            terms["hard"] = self.kd.hard_loss.weight * self.loss(output, target)
        terms |= self.kd_loss(output, data[:, self.num_input_channels :], self.current_epoch / self.num_epochs)
        return torch.stack(list(terms.values())).sum(), {f"kd_{k}": v for k, v in terms.items()}
