"""Teachers: nnU-Net's trainer with its numbers in the plans."""

from .base import nnUNetTrainerKDBase


class nnUNetTrainerKDTeacher(nnUNetTrainerKDBase):
    """nnU-Net's trainer with schedule, seed, optimizer and loss (Dice + CE, Dice, CE) from the plans.

    Source: Noothout et al. 2022, Section 2.1 (ensembles differ in architecture and loss, or in the seed only).
    """
