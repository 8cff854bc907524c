"""What a user passes to ``nnUNetv2_train -tr``."""

from .nnUNetTrainerKDCrossTeaching import nnUNetTrainerKDCrossTeaching
from .nnUNetTrainerKDEnsemble import nnUNetTrainerKDEnsemble
from .nnUNetTrainerKDFeature import nnUNetTrainerKDFeature
from .nnUNetTrainerKDMultiTeacher import nnUNetTrainerKDMultiTeacher
from .nnUNetTrainerKDTeacher import nnUNetTrainerKDTeacher

__all__ = [
    "nnUNetTrainerKDCrossTeaching",
    "nnUNetTrainerKDEnsemble",
    "nnUNetTrainerKDFeature",
    "nnUNetTrainerKDMultiTeacher",
    "nnUNetTrainerKDTeacher",
]
