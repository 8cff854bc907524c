"""Feature distillation from one frozen teacher in memory."""

from nnunet_kd.teaching.memory import OneTeacherInMemory

from .student import nnUNetTrainerKDStudent


class nnUNetTrainerKDFeature(nnUNetTrainerKDStudent):
    """Trains a student on the reference, on one teacher's predictions and on its features.

    L = L_seg + alpha L_PM + beta_1 L_IM + beta_2 L_RA, or any other terms of ``kd.distillation`` and ``kd.features``.

    Source: Qin et al. 2021, Eq. 9; Ben Loussaief et al. 2023, Eq. 5 (one teacher).
    """

    source = OneTeacherInMemory
