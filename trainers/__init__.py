"""What a user passes to ``nnUNetv2_train -tr``."""

from nnunet_kd.trainers.nnUNetTrainerKDCrossTeaching import nnUNetTrainerKDCrossTeaching
from nnunet_kd.trainers.nnUNetTrainerKDEnsemble import nnUNetTrainerKDEnsemble
from nnunet_kd.trainers.nnUNetTrainerKDFeature import nnUNetTrainerKDFeature
from nnunet_kd.trainers.nnUNetTrainerKDMultiTeacher import nnUNetTrainerKDMultiTeacher
from nnunet_kd.trainers.nnUNetTrainerKDTeacher import nnUNetTrainerKDTeacher

__all__ = [
    "nnUNetTrainerKDCrossTeaching",
    "nnUNetTrainerKDEnsemble",
    "nnUNetTrainerKDFeature",
    "nnUNetTrainerKDMultiTeacher",
    "nnUNetTrainerKDTeacher",
]
