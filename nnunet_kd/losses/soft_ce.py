"""Cross-entropy with soft targets."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from nnunet_kd.losses.soft_labels import SOFT_LABEL_TERMS, Comparison, SoftLabelLoss, SoftLabelTerm
from nnunet_kd.losses.term import RAMP, WEIGHT, Ramp
from nnunet_kd.utilities.schema import number, value


def soft_cross_entropy(
    logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None, *, sigmoid: bool = False
) -> Tensor:
    r"""Cross-entropy with soft targets, in nats per voxel; its minimum is the entropy of the soft labels, not 0.

    .. math:: -\frac{1}{|V|} \sum_{v \in V} \sum_c t_c \log p_c

    Source: Hinton et al. 2015, Section 2 (soft targets at T = 1).

    Args:
        logits: (B, C, *spatial).
        soft_labels: (B, C, *spatial).
        valid: (B, 1, *spatial); None counts every voxel.
        sigmoid: independent regions; the binary cross-entropies are summed.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> round(soft_cross_entropy(torch.zeros(1, 2, 4), torch.full((1, 2, 4), 0.5)).item(), 4)  # log 2
        0.6931
    """
    return SoftCrossEntropy(sigmoid)(logits, soft_labels, valid)


class SoftCrossEntropy(SoftLabelLoss):
    """Module of :func:`soft_cross_entropy`.

    Example:
        >>> import torch
        >>> soft_labels = torch.tensor([1.0, 0.0]).view(1, 2, 1).expand(1, 2, 4)
        >>> round(SoftCrossEntropy()(torch.zeros(1, 2, 4), soft_labels).item(), 4)  # log 2
        0.6931
    """

    def __init__(self, sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.sigmoid = sigmoid

    def compare(self, comparison: Comparison) -> Tensor:
        """See :func:`soft_cross_entropy`."""
        if self.sigmoid:
            per_region = F.binary_cross_entropy_with_logits(
                comparison.logits, comparison.soft_labels, reduction="none"
            )  # (B, R, *spatial)
            return comparison.mean(per_region * comparison.valid)
        return comparison.mean(-(comparison.weighted * comparison.log_softmax))  # soft labels are 0 where not valid


@SOFT_LABEL_TERMS.register("soft_ce", "cross-entropy with soft targets, nats per voxel")
@dataclass(frozen=True)
class SoftCETerm(SoftLabelTerm):
    """Cross-entropy with soft targets; on by default, and fading (docs/results/acdc.md)."""

    weight: float = number(1.0, WEIGHT, minimum=0)
    ramp: Ramp = value("fade", RAMP)

    def build(self, sigmoid: bool, ddp: bool) -> SoftCrossEntropy:
        """See :class:`SoftLabelTerm`."""
        return SoftCrossEntropy(sigmoid)
