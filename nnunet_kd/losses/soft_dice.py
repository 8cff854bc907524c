"""Dice loss against soft labels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_kd.losses.soft_labels import SOFT_LABEL_TERMS, Comparison, SoftLabelLoss, SoftLabelTerm
from nnunet_kd.losses.term import RAMP, WEIGHT, Ramp
from nnunet_kd.utilities.ranks import sum_over_ranks
from nnunet_kd.utilities.schema import number, value


def soft_dice_loss(
    logits: Tensor,
    soft_labels: Tensor,
    valid: Tensor | None = None,
    *,
    batch_dice: bool = True,
    smooth: float = 1e-5,
    sigmoid: bool = False,
    ddp: bool = False,
) -> Tensor:
    r"""1 - Dice between the student's probabilities and the soft labels, mean over foreground classes or regions.

    .. math:: 1 - \frac{2 \sum_v p t + s}{\sum_v p^2 + \sum_v t^2 + s}

    Source: Milletari et al. 2016 (V-Net), Section 3. The squared denominator makes the loss 0 exactly at p = t;
    nnU-Net's sum p + sum t would push a student beyond its soft labels towards hard ones.

    Args:
        logits: (B, C, *spatial).
        soft_labels: (B, C, *spatial).
        valid: (B, 1, *spatial); None counts every voxel.
        batch_dice: sums over the batch before the ratio; otherwise one ratio per image.
        smooth: s; makes a class that neither has cost 0.
        sigmoid: independent regions, all of which count; with a softmax the background (channel 0) is left out.
        ddp: with ``batch_dice``, sums over the batches of all ranks, as nnU-Net's Dice does.

    Raises:
        ValueError: for shapes that do not fit, or a softmax without a foreground class.

    Example:
        >>> logits = torch.tensor([[[3.0, -1.0], [0.0, 2.0]]])
        >>> round(abs(soft_dice_loss(logits, logits.softmax(1)).item()), 6)
        0.0
    """
    return SoftDiceLoss(batch_dice, smooth, sigmoid, ddp)(logits, soft_labels, valid)


class SoftDiceLoss(SoftLabelLoss):
    """Module of :func:`soft_dice_loss`.

    Example:
        >>> soft_labels = torch.tensor([0.0, 1.0]).view(1, 2, 1).expand(1, 2, 4)
        >>> round(SoftDiceLoss()(torch.zeros(1, 2, 4), soft_labels).item(), 4)  # p = 0.5: 1 - 2 * 0.5 / (0.25 + 1)
        0.2
    """

    def __init__(self, batch_dice: bool = True, smooth: float = 1e-5, sigmoid: bool = False, ddp: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.batch_dice, self.smooth, self.sigmoid, self.ddp = batch_dice, smooth, sigmoid, ddp

    def compare(self, comparison: Comparison) -> Tensor:
        """See :func:`soft_dice_loss`."""
        first = 0 if self.sigmoid else 1
        if comparison.logits.shape[1] <= first:
            raise ValueError(
                f"logits {tuple(comparison.logits.shape)}: a softmax needs background and at least one foreground class"
            )
        p = comparison.probabilities[:, first:]  # (B, foreground, *spatial)
        t, weighted = comparison.soft_labels[:, first:], comparison.weighted[:, first:]
        axes = [0] * self.batch_dice + list(range(2, p.ndim))
        overlap = (p * weighted).sum(axes)  # soft labels are 0 where not valid
        total = (p.square() * comparison.valid).sum(axes) + (t * weighted).sum(axes)
        if self.ddp and self.batch_dice:
            overlap, total = sum_over_ranks(torch.stack((overlap, total)))
        return 1 - ((2 * overlap + self.smooth) / (total + self.smooth)).mean()


@SOFT_LABEL_TERMS.register("soft_dice", "1 - Dice against the soft labels")
@dataclass(frozen=True)
class SoftDiceTerm(SoftLabelTerm):
    """Soft Dice loss against the soft labels; on by default, and fading (docs/results/acdc.md)."""

    weight: float = number(1.0, WEIGHT, minimum=0)
    ramp: Ramp = value("fade", RAMP)
    batch_dice: bool = value(True, "sums over the batch as well as over space before the ratio is taken")

    def build(self, sigmoid: bool, ddp: bool) -> SoftDiceLoss:
        """See :class:`SoftLabelTerm`."""
        return SoftDiceLoss(self.batch_dice, sigmoid=sigmoid, ddp=ddp)
