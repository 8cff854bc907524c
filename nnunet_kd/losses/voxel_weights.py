"""How much a voxel's soft label counts, by how sure the teachers are of it."""

import math

import torch
from torch import Tensor


def voxel_weights(soft_labels: Tensor, kind: str, sigmoid: bool = False) -> Tensor:
    r"""Weight in [0, 1] of every voxel: 1 where the soft label is one-hot, 0 where it is uniform.

    .. math:: \text{confidence: } \frac{C \max_c t_c - 1}{C - 1}, \qquad
              \text{entropy: } 1 - \frac{-\sum_c t_c \log t_c}{\log C}

    Source: uncertainty weighting of pseudo-labels in general; Yu et al. 2019 mask by entropy where this weighs.

    Args:
        soft_labels: probabilities (B, C, *spatial).
        kind: ``none`` (1 everywhere), ``confidence`` or ``entropy``.
        sigmoid: independent regions; the mean over the C Bernoulli distributions.

    Returns:
        (B, 1, *spatial), without a gradient.

    Raises:
        ValueError: for another kind.

    Example:
        >>> soft_labels = torch.tensor([[[1.0, 0.5], [0.0, 0.5]]])
        >>> voxel_weights(soft_labels, "confidence").tolist()
        [[[1.0, 0.0]]]
    """
    t = soft_labels.detach()
    if kind == "none":
        return torch.ones_like(t[:, :1])
    if kind not in ("confidence", "entropy"):
        raise ValueError(f"voxel weight {kind!r}: expected 'none', 'confidence' or 'entropy'")
    if sigmoid:
        t = torch.stack((t, 1 - t), 2)
        return _certainty(t, 2, kind).mean(1, keepdim=True)
    return _certainty(t, 1, kind).unsqueeze(1)


def _certainty(t: Tensor, dim: int, kind: str) -> Tensor:
    classes = t.shape[dim]
    if kind == "confidence":
        certainty = (classes * t.amax(dim) - 1) / (classes - 1)
    else:
        certainty = 1 + torch.xlogy(t, t).sum(dim) / math.log(classes)
    return certainty.clamp(0, 1)
