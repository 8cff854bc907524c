"""What a user passes to ``nnUNetv2_train -tr``."""

from nnunet_kd.trainers.nnUNetTrainerKDTeacher import nnUNetTrainerKDTeacher

__all__ = ["nnUNetTrainerKDTeacher"]
