"""How much each of several teachers counts for a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunet_kd.losses.segmentation import dice_loss

ADAPTIVE = ("paper", "inverse")


def reference_dice_losses(
    probabilities: Sequence[Tensor], classes: Tensor, valid: Tensor, sigmoid: bool = False
) -> Tensor:
    """Dice loss of every teacher against the reference of the batch, (N,), in [0, 1].

    Args:
        probabilities: (B, C, *spatial) of every teacher.
        classes: reference (B, C, *spatial), bool.
        valid: voxels that count (B, 1, *spatial), bool.
        sigmoid: regions, all of which count; of a softmax the background is left out. Classes that the reference lacks
            in this batch do not count: there, any false alarm has a Dice of 0.
    """
    first = 0 if sigmoid else 1
    return torch.stack(
        [dice_loss(p[:, first:], classes[:, first:] & valid, valid, present_only=True) for p in probabilities]
    ).detach()


def teacher_weights(kind: str, dice_losses: Tensor, fixed: Sequence[float] = ()) -> Tensor:
    r"""Weights w of N teachers for a batch, (N,), not negative, with sum 1.

    ``paper``: :math:`w_j = d_j / \sum_k d_k`, as printed, so that worse teachers weigh more. ``inverse``:
    :math:`w_j = (1 - d_j) / \sum_k (1 - d_k)`, the evident intent. ``uniform``: 1 / N. ``fixed``: ``fixed``,
    normalised. Where a sum is 0 (no teacher errs, or none is right at all), the weights are uniform.

    Source: Ben Loussaief et al. 2023, Section 2.2, unnumbered equation before Eq. 6.

    Args:
        kind: ``paper``, ``inverse``, ``uniform`` or ``fixed``.
        dice_losses: d, (N,), each in [0, 1].
        fixed: one number for each teacher, for ``fixed``.

    Raises:
        ValueError: for another kind or another number of fixed weights.
    """
    scores = {
        "paper": dice_losses,
        "inverse": 1 - dice_losses,
        "uniform": torch.ones_like(dice_losses),
        "fixed": dice_losses.new_tensor(list(fixed)),
    }
    if kind not in scores or scores[kind].shape != dice_losses.shape:
        raise ValueError(
            f"weights {kind!r}, fixed {list(fixed)}: expected a known kind for {len(dice_losses)} teachers"
        )
    score = scores[kind].clamp_min(0)
    total = score.sum()
    return torch.where(total > 0, score / total.clamp_min(torch.finfo(score.dtype).tiny), 1 / len(score))
