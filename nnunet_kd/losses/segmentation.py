"""Losses between a student's logits and the reference segmentation that nnU-Net does not have.

Shapes: logits ``(B, C, *spatial)``, 2D or 3D; classes ``(B, C, *spatial)``, bool: one-hot labels, or regions with
``sigmoid``; ``valid`` ``(B, 1, *spatial)``, bool, None for every voxel. Half-precision inputs are promoted to float32.
Without any valid voxel a loss is 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_kd.losses.regions import unpack_reference


def dice_loss(
    probabilities: Tensor,
    classes: Tensor,
    valid: Tensor | None = None,
    *,
    squared: bool = False,
    present_only: bool = False,
    smooth: float = 1e-5,
) -> Tensor:
    r"""1 - Dice between probabilities and reference, mean over classes; the sums run over the batch.

    .. math:: 1 - \frac{1}{C} \sum_c \frac{2 \sum_v p g + s}{\sum_v p^k + \sum_v g + s}

    Source: nnU-Net's denominator (k = 1), or that of Milletari et al. 2016, Section 3 (``squared``, k = 2).

    Args:
        probabilities: (B, C, *spatial) of the classes that count; leave the background out before.
        classes: (B, C, *spatial), bool.
        valid: (B, 1, *spatial), bool; None counts every voxel.
        squared: squares the probabilities in the denominator.
        present_only: the mean is over the classes that the reference has in this batch; 0 when it has none.
        smooth: s; makes a class that neither has cost 0.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> classes = torch.tensor([[[True, True, False, False]]])
        >>> round(dice_loss(torch.full((1, 1, 4), 0.5), classes).item(), 4)  # 1 - 2 * 1 / (2 + 2)
        0.5
    """
    p, g, valid = _prepare(probabilities, classes, valid)
    axes = [0, *range(2, p.ndim)]
    g = g * valid
    overlap = (p * g).sum(axes)
    total = ((p.square() if squared else p) * valid).sum(axes) + g.sum(axes)
    per_class = 1 - (2 * overlap + smooth) / (total + smooth)
    if not present_only:
        return per_class.mean()
    present = g.sum(axes) > 0
    return (per_class * present).sum() / present.sum().clamp_min(1)


def lovasz_loss(logits: Tensor, classes: Tensor, valid: Tensor | None = None, *, sigmoid: bool = False) -> Tensor:
    r"""Lovasz-softmax loss: the Lovasz extension of the Jaccard loss, mean over the classes that the batch has.

    .. math:: \frac{1}{|C|} \sum_{c \in C} \overline{\Delta_{J_c}}(m(c)), \quad
              m_v(c) = \begin{cases} 1 - p_{vc} & c = y_v \\ p_{vc} & \text{otherwise} \end{cases}

    Source: Berman et al. 2018, Section 3 (Lovasz-softmax); errors and classes are those of the whole batch.

    Args:
        logits: (B, C, *spatial).
        classes: (B, C, *spatial), bool.
        valid: (B, 1, *spatial), bool; None counts every voxel.
        sigmoid: regions: the binary form on the probability of each region. *Deviation*: the paper's binary loss is a
            hinge on logits, which goes on pushing what is certain; on probabilities the loss is 0 at p = y and bounded
            by 1, like the softmax form.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> classes = torch.tensor([[[True, False], [False, True]]])
        >>> round(lovasz_loss(100 * (classes.float() - 0.5), classes).item(), 4)
        0.0
    """
    z, g, valid = _prepare(logits, classes, valid)
    p = z.sigmoid() if sigmoid else z.softmax(1)
    errors = ((p - g).abs() * valid).transpose(0, 1).flatten(1)
    g = (g * valid).transpose(0, 1).flatten(1)
    errors, order = errors.sort(dim=1, descending=True)
    # A voxel that is not valid has error 0: it comes last, where the factor does not matter.
    per_class = (errors * _lovasz_gradient(g.gather(1, order))).sum(1)
    present = g.sum(1) > 0
    return (per_class * present).sum() / present.sum().clamp_min(1)


def _lovasz_gradient(sorted_truth: Tensor) -> Tensor:
    """Factors of the sorted errors: growth of the Jaccard loss with each voxel (Berman et al. 2018, Algorithm 1)."""
    total = sorted_truth.sum(1, keepdim=True)
    intersection = total - sorted_truth.cumsum(1)
    union = total + (1 - sorted_truth).cumsum(1)
    jaccard = 1 - intersection / union.clamp_min(1)
    return torch.diff(jaccard, dim=1, prepend=torch.zeros_like(total))


def focal_loss(
    logits: Tensor,
    classes: Tensor,
    valid: Tensor | None = None,
    *,
    gamma: float = 2.0,
    alpha: float = 0.5,
    sigmoid: bool = False,
) -> Tensor:
    r"""Focal loss: cross-entropy in which voxels that are already right count less; nats per voxel.

    .. math:: -\frac{1}{|V|} \sum_{v \in V} \alpha_{y_v} (1 - p_{v y_v})^\gamma \log p_{v y_v}

    Source: Lin et al. 2017, Eq. 5 (gamma 2, alpha 0.25); Choi et al. 2022 (gamma 2, alpha 0.5).

    Args:
        logits: (B, C, *spatial).
        classes: (B, C, *spatial), bool.
        valid: (B, 1, *spatial), bool; None counts every voxel.
        gamma: focusing parameter >= 0; 0 is alpha times cross-entropy.
        alpha: weight of foreground in [0, 1]; background (channel 0, or "not this region") weighs 1 - alpha.
        sigmoid: regions; their binary losses are summed.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> classes = torch.tensor([[[True, False], [False, True]]])
        >>> round(focal_loss(torch.zeros(1, 2, 2), classes, gamma=0.0).item(), 4)  # half of log 2
        0.3466
    """
    z, g, valid = _prepare(logits, classes, valid)
    if sigmoid:
        log_p = torch.where(classes, F.logsigmoid(z), F.logsigmoid(-z))
        weight = torch.where(classes, alpha, 1 - alpha)
    else:
        log_p = (z.log_softmax(1) * g).sum(1, keepdim=True)
        weight = (1 - alpha) * g[:, :1] + alpha * (1 - g[:, :1])
    per_voxel = -weight * (-torch.expm1(log_p)).clamp_min(1e-12).pow(gamma) * log_p
    return (per_voxel * valid).sum() / valid.sum().clamp_min(1)


class CompoundSegmentationLoss(nn.Module):
    """Weighted sum of a Dice loss and another loss, with the arguments of nnU-Net's compound losses.

    Source: Ben Loussaief et al. 2023, Eq. 4 (0.2 Dice + 0.3 Lovasz); Choi et al. 2022 (Dice + focal).

    Example:
        >>> def dice(logits, classes, loss_mask):
        ...     return dice_loss(logits.softmax(1)[:, 1:], classes[:, 1:], loss_mask)
        >>> target = torch.tensor([[[0.0, 1.0]]])
        >>> loss = CompoundSegmentationLoss(dice, lovasz_loss, dice_weight=0.2, other_weight=0.3)
        >>> round(loss(torch.zeros(1, 2, 2), target).item(), 4)  # 0.2 * 0.5 + 0.3 * 0.5
        0.25
    """

    def __init__(
        self,
        dice: Callable[..., Tensor],
        other: Callable[..., Tensor],
        dice_weight: float = 1.0,
        other_weight: float = 1.0,
        sigmoid: bool = False,
    ):
        """Sets the two parts.

        Args:
            dice: nnU-Net's Dice loss: called with logits, target and ``loss_mask``.
            other: :func:`lovasz_loss` or :func:`focal_loss`, with their options bound.
            dice_weight: 0 leaves the part out.
            other_weight: 0 leaves the part out.
            sigmoid: region-based labels.
        """
        super().__init__()
        self.dice, self.other, self.sigmoid = dice, other, sigmoid
        self.dice_weight, self.other_weight = dice_weight, other_weight

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits (B, C, *spatial) against a target as :func:`unpack_reference` takes it."""
        classes, valid = unpack_reference(target, logits.shape[1], self.sigmoid)
        total = logits.new_zeros(())
        if self.dice_weight:
            total = total + self.dice_weight * self.dice(logits, classes, loss_mask=valid)
        if self.other_weight:
            total = total + self.other_weight * self.other(logits, classes, valid, sigmoid=self.sigmoid)
        return total


def _prepare(scores: Tensor, classes: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Checks shapes, promotes half precision; replaces what is not valid by 0: a NaN times 0 would still be NaN."""
    if scores.shape != classes.shape or scores.ndim < 3:
        raise ValueError(f"{tuple(scores.shape)} and classes {tuple(classes.shape)} must both be (B, C, *spatial)")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if valid is None:
        return scores, classes.to(scores.dtype), torch.ones_like(scores[:, :1])
    if valid.shape != (scores.shape[0], 1, *scores.shape[2:]):
        raise ValueError(f"valid {tuple(valid.shape)} must be {(scores.shape[0], 1, *scores.shape[2:])}")
    return scores.masked_fill(~valid, 0), classes.to(scores.dtype), valid.to(scores.dtype)
