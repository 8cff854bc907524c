"""Settings of the hard-label loss and of the soft-label terms."""

from dataclasses import dataclass
from typing import Literal

from nnunet_kd.losses.term import Term
from nnunet_kd.utilities.schema import block, number, value


@dataclass(frozen=True)
class HardLoss:
    """Loss against the reference segmentation."""

    name: Literal["dice_ce", "dice", "ce", "dice_lovasz", "dice_focal"] = value(
        "dice_ce", "nnU-Net's Dice + cross-entropy, or one of the two; nnU-Net's Dice + Lovasz or focal loss"
    )
    weight: float = number(1.0, "weight in the training loss of a student", minimum=0)
    dice_weight: float = number(1.0, "weight of the Dice part within the loss", minimum=0)
    other_weight: float = number(1.0, "weight of the part beside Dice within the loss", minimum=0)
    focal_gamma: float = number(2.0, "focusing parameter of the focal loss", minimum=0)
    focal_alpha: float = number(
        0.5, "weight of foreground in the focal loss; background has the rest", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class KLTerm(Term):
    """Kullback-Leibler divergence with temperature (Hinton et al. 2015)."""

    temperature: float = number(2.0, "softmax temperature T; the term carries T^2", above=0)
    direction: Literal["teacher_student", "student_teacher"] = value(
        "teacher_student", "teacher_student: KL(teacher || student); student_teacher: the reverse"
    )


@dataclass(frozen=True)
class SoftCETerm(Term):
    """Cross-entropy with soft targets; on by default (docs/results/hippocampus.md)."""

    weight: float = number(1.0, "weight in the training loss; 0 switches the term off", minimum=0)


@dataclass(frozen=True)
class SoftDiceTerm(Term):
    """Soft Dice loss against the soft labels; on by default (docs/results/hippocampus.md)."""

    weight: float = number(1.0, "weight in the training loss; 0 switches the term off", minimum=0)
    batch_dice: bool = value(True, "sums over the batch as well as over space before the ratio is taken")


@dataclass(frozen=True)
class Distillation:
    """Terms between the student's output and the teachers' probabilities, stored or predicted in memory."""

    kl: KLTerm = block(KLTerm, "Kullback-Leibler divergence, nats per voxel")
    mse: Term = block(Term, "mean squared error of probabilities (Noothout et al. 2022)")
    soft_ce: SoftCETerm = block(SoftCETerm, "cross-entropy with soft targets, nats per voxel")
    soft_dice: SoftDiceTerm = block(SoftDiceTerm, "1 - Dice against the soft labels")
    deep_supervision: bool = value(True, "also at the lower-resolution outputs, with nnU-Net's weights")
    downsampling: Literal["mean", "nearest"] = value(
        "mean",
        "soft labels at the lower-resolution outputs; mean: of the voxels that one covers; nearest: the voxel that "
        "nnU-Net takes of the reference, half a voxel away from the mean's",
    )
    normalized: bool = value(
        True,
        "scales hard-label loss and soft-label terms so that their weights sum to those of the hard-label loss alone: "
        "student and undistilled twin then take steps of one size",
    )
