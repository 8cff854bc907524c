"""Offline distillation of an ensemble from stored soft labels."""

from nnunet_kd.teaching.stored import StoredEnsemble

from .student import nnUNetTrainerKDStudent


class nnUNetTrainerKDEnsemble(nnUNetTrainerKDStudent):
    """Trains a student on image, hard label and the ensemble's stored soft label; unlabeled cases have the last only.

    Source: Noothout et al. 2022, Eq. 1 (hard + soft loss, best member first); Hinton et al. 2015 (temperature).
    """

    source = StoredEnsemble
