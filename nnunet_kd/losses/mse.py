"""Mean squared error of probabilities."""

from dataclasses import dataclass

from torch import Tensor

from nnunet_kd.losses.soft_labels import SOFT_LABEL_TERMS, Comparison, SoftLabelLoss, SoftLabelTerm


def mse_of_probabilities(
    logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None, *, sigmoid: bool = False
) -> Tensor:
    r"""Mean squared error between the student's probabilities and the soft labels; mean over classes and valid voxels.

    .. math:: \frac{1}{|V| C} \sum_{v \in V} \sum_c (p_c - t_c)^2

    Source: Noothout et al. 2022, Eq. 1 (L_s).

    Args:
        logits: (B, C, *spatial).
        soft_labels: (B, C, *spatial).
        valid: (B, 1, *spatial); None counts every voxel.
        sigmoid: independent regions.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import torch
        >>> mse_of_probabilities(torch.zeros(1, 2, 4), torch.tensor([1.0, 0.0]).view(1, 2, 1).expand(1, 2, 4)).item()
        0.25
    """
    return MSEOfProbabilities(sigmoid)(logits, soft_labels, valid)


class MSEOfProbabilities(SoftLabelLoss):
    """Module of :func:`mse_of_probabilities`.

    Example:
        >>> import torch
        >>> logits = torch.randn(1, 3, 4, 4)
        >>> round(MSEOfProbabilities()(logits, logits.softmax(1)).item(), 6)
        0.0
    """

    def __init__(self, sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.sigmoid = sigmoid

    def compare(self, comparison: Comparison) -> Tensor:
        """See :func:`mse_of_probabilities`."""
        squared = (comparison.probabilities - comparison.soft_labels).square()  # (B, C, *spatial)
        return comparison.mean(squared.mean(1, keepdim=True) * comparison.valid)


@SOFT_LABEL_TERMS.register("mse", "mean squared error of probabilities (Noothout et al. 2022)")
@dataclass(frozen=True)
class MSETerm(SoftLabelTerm):
    """Mean squared error of probabilities."""

    def build(self, sigmoid: bool, ddp: bool) -> MSEOfProbabilities:
        """See :class:`SoftLabelTerm`."""
        return MSEOfProbabilities(sigmoid)
