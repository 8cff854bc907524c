"""Several teachers, each by itself: which ensembles allow that, and how much each counts for a batch."""

from collections.abc import Sequence

from torch import Tensor

from nnunet_kd.config import KDConfig, MultiTeacher
from nnunet_kd.losses.teacher_weights import ADAPTIVE, reference_dice_losses, teacher_weights
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teaching.reference import Reference
from nnunet_kd.utilities.errors import UserError


def check_single_teachers(kd: KDConfig, trainer: str) -> None:
    """Refuses settings that only the store of a whole ensemble can follow.

    Args:
        kd: the plans' ``"kd"`` block.
        trainer: name of the trainer's class.

    Raises:
        UserError: names the key.
    """
    if kd.ensemble.from_folder is not None:
        raise UserError(
            f"kd.ensemble.from_folder: {trainer} needs teacher networks, not probability maps; use "
            "nnUNetTrainerKDEnsemble."
        )
    if kd.ensemble.membership == "out_of_fold":
        raise UserError(
            f"kd.ensemble.membership: with {trainer} every teacher teaches every case, out_of_fold is not possible; "
            "use all or same_fold, or nnUNetTrainerKDEnsemble."
        )


def check_weights(config: MultiTeacher, ensemble: TeachingEnsemble) -> None:
    """Refuses fixed weights that are not one for each teacher network.

    Raises:
        UserError: with both numbers.
    """
    networks = len(ensemble.members())
    if config.fixed_weights and len(config.fixed_weights) != networks:
        raise UserError(
            f"kd.multi_teacher.fixed_weights: has {len(config.fixed_weights)} numbers for {networks} teacher networks "
            f"({ensemble.describe()})."
        )


def weigh(
    config: MultiTeacher, probabilities: Sequence[Tensor], known: Tensor | None, reference: Reference, sigmoid: bool
) -> Tensor:
    """Weights of the teachers for a batch, (N,), with sum 1 (Ben Loussaief et al. 2023, Section 2.2).

    Args:
        config: ``kd.multi_teacher``.
        probabilities: (B, C, *spatial) of every teacher.
        known: where they are, (B, 1, *spatial), bool; None: everywhere.
        reference: of the batch.
        sigmoid: region-based labels.
    """
    if len(probabilities) == 1:
        return probabilities[0].new_ones(1)
    losses = probabilities[0].new_zeros(len(probabilities))
    if config.weights in ADAPTIVE:
        valid = reference.valid if known is None else reference.valid & known
        losses = reference_dice_losses(probabilities, reference.classes, valid, sigmoid)
    return teacher_weights(config.weights, losses, config.fixed_weights)


def weighted_mean(probabilities: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The teachers' mean (B, C, *spatial) with weights (N,) whose sum is 1; of one teacher its own."""
    if len(probabilities) == 1:
        return probabilities[0]
    weighted = [w * p for w, p in zip(weights, probabilities, strict=True)]
    return sum(weighted[1:], weighted[0])
