"""Distillation from several frozen teachers, weighed anew for every batch."""

from typing import Any

import numpy as np
from torch import Tensor

from nnunet_kd.data.dataset import SoftLabelDataset
from nnunet_kd.data.transforms import with_soft_labels
from nnunet_kd.losses import unpack_soft_labels
from nnunet_kd.losses.teacher_weights import ADAPTIVE, reference_dice_losses, teacher_weights
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.trainers.online import TEACHER_WEIGHTS, nnUNetTrainerKDOnline
from nnunet_kd.utilities.errors import UserError, exit_on_user_error


class nnUNetTrainerKDMultiTeacher(nnUNetTrainerKDOnline):
    """Trains a student on the reference and on the weighted predictions and features of several teachers.

    With ``kd.multi_teacher.source`` ``stored`` no teacher is in memory: the predictions come from one soft-label store
    per teacher, and there are no feature terms.

    Source: Ben Loussaief et al. 2023, Eq. 4-6.
    """

    stored_teachers = 0

    @property
    def stored(self) -> bool:
        """Whether the teachers' predictions come from stores."""
        return self.kd.multi_teacher.source == "stored"

    def load_teachers(self, ensemble: TeachingEnsemble) -> None:
        """Loads the teachers, unless their predictions are stored.

        Raises:
            UserError: when the number of fixed weights is not that of the teachers.
        """
        fixed, networks = self.kd.multi_teacher.fixed_weights, ensemble.members()
        if fixed and len(fixed) != len(networks):
            raise UserError(
                f"kd.multi_teacher.fixed_weights: has {len(fixed)} numbers for {len(networks)} teacher networks "
                f"({ensemble.describe()})."
            )
        if not self.stored:
            super().load_teachers(ensemble)

    def get_training_transforms(self, *args, **kwargs):
        """nnU-Net's transforms, applied to stored soft labels too."""
        transforms = super().get_training_transforms(*args, **kwargs)
        if not self.stored:
            return transforms
        cascade = len(self.label_manager.foreground_labels) if self.is_cascaded else 0
        return with_soft_labels(transforms, self.num_input_channels - cascade)

    def get_tr_and_val_datasets(self):
        """Training cases, with the soft labels of every teacher where they are stored; validation cases as they are."""
        training, validation = super().get_tr_and_val_datasets()
        if not self.stored:
            return training, validation
        with exit_on_user_error():
            members = self.teaching_ensemble().stores()
            for member in members:
                store = self.export_missing(member, training.identifiers)
                self.describe_soft_labels(store, training.identifiers)
                training = SoftLabelDataset(training, store)  # each adds its channels behind those of the others
        self.stored_teachers = len(members)
        return training, validation

    def teacher_probabilities(self, data: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Of the teachers in memory, or from the channels behind the image."""
        if not self.stored:
            return super().teacher_probabilities(data)
        channels = data[:, self.num_input_channels :].chunk(self.stored_teachers, 1)
        unpacked = [unpack_soft_labels(c, self.label_manager.has_regions) for c in channels]
        return [p for p, _ in unpacked], unpacked[0][1]

    def weigh_teachers(self, probabilities: list[Tensor], classes: Tensor, valid: Tensor) -> Tensor:
        """As ``kd.multi_teacher.weights`` says (Ben Loussaief et al. 2023, Section 2.2)."""
        m = self.kd.multi_teacher
        if m.weights in ADAPTIVE:
            losses = reference_dice_losses(probabilities, classes, valid, self.label_manager.has_regions)
        else:
            losses = probabilities[0].new_zeros(len(probabilities))
        return teacher_weights(m.weights, losses, m.fixed_weights)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Also prints the teachers' mean weights."""
        super().on_train_epoch_end(train_outputs)
        mean = np.mean([o[TEACHER_WEIGHTS] for o in train_outputs], 0)
        self.print_to_log_file("Teacher weights, mean of the epoch:", [round(float(w), 4) for w in mean])
