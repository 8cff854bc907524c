"""Distillation from several frozen teachers, weighed anew for every batch."""

from typing import Any

import numpy as np

from nnunet_kd.config import KDConfig
from nnunet_kd.teaching.memory import TeachersInMemory
from nnunet_kd.teaching.source import TeachingSource
from nnunet_kd.teaching.stored import StoredTeachers

from .student import TEACHER_WEIGHTS, nnUNetTrainerKDStudent


class nnUNetTrainerKDMultiTeacher(nnUNetTrainerKDStudent):
    """Trains a student on the reference and on the weighted predictions and features of several teachers.

    With ``kd.multi_teacher.source`` ``stored`` no teacher is in memory: the predictions come from one soft-label store
    for each teacher, and there are no feature terms.

    Source: Ben Loussaief et al. 2023, Eq. 4-6.
    """

    source = TeachersInMemory

    @classmethod
    def source_for(cls, kd: KDConfig) -> type[TeachingSource]:
        """As ``kd.multi_teacher.source`` says."""
        return StoredTeachers if kd.multi_teacher.source == "stored" else cls.source

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Also prints the teachers' mean weights."""
        super().on_train_epoch_end(train_outputs)
        mean = np.mean([o[TEACHER_WEIGHTS] for o in train_outputs], 0)
        self.print_to_log_file("Teacher weights, mean of the epoch:", [round(float(w), 4) for w in mean])
