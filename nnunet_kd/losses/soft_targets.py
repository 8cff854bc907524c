"""What teachers say about a batch, at any resolution: probabilities, where they are known, and tempered ones."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_kd.losses.soft_labels import Tempered

_TINY = 1e-6  # below the share of any valid voxel


class SoftTargets:
    """Soft labels of a batch.

    Attributes:
        probabilities: (B, C, *spatial), 0 where not valid.
        valid: (B, 1, *spatial), bool: where at least half of a voxel is.
        log_tempered: temperature -> logarithms of the teachers' probabilities at it, see :func:`log_mixture`; None
            where only probabilities are known.
    """

    def __init__(self, probabilities: Tensor, valid: Tensor | None = None, log_tempered: Tempered | None = None):
        """``valid`` None: everywhere."""
        valid = torch.ones_like(probabilities[:, :1], dtype=torch.bool) if valid is None else valid
        self.probabilities, self.valid, self.log_tempered = probabilities, valid, log_tempered
        # sums over valid voxels and their share: both can be averaged, again and again
        self._sums, self._share = probabilities, valid.to(probabilities.dtype)

    def resized(self, shape: Sequence[int], how: str) -> "SoftTargets":
        """On the grid of a lower-resolution output.

        Args:
            shape: spatial shape of the output.
            how: ``mean`` over the valid ones of the voxels that one covers, valid where at least half of them are;
                ``nearest``: the voxel at its centre, rounded up, as nnU-Net downsamples the reference.
        """
        if tuple(self._sums.shape[2:]) == tuple(shape):
            return self
        sums, share = (resize(x, shape, how) for x in (self._sums, self._share))
        tempered = None if self.log_tempered is None else partial(self._resized_logarithms, share, shape, how)
        lower = SoftTargets(sums / share.clamp_min(_TINY), share >= 0.5, tempered)
        lower._sums, lower._share = sums, share
        return lower

    def _resized_logarithms(self, share: Tensor, shape: Sequence[int], how: str, temperature: float) -> Tensor:
        assert self.log_tempered is not None
        probabilities = self.log_tempered(temperature).exp()
        regions = probabilities.ndim == share.ndim + 1  # (B, R, *spatial, 2)
        parts = probabilities.unbind(-1) if regions else (probabilities,)
        means = [resize(p * self._share, shape, how) / share.clamp_min(_TINY) for p in parts]
        logarithms = [m.clamp_min(torch.finfo(m.dtype).tiny).log() for m in means]
        return torch.stack(logarithms, -1) if regions else logarithms[0]


def log_mixture(logits: Sequence[Tensor], weights: Tensor, temperature: float, sigmoid: bool) -> Tensor:
    r"""Logarithms of several teachers' weighted mean probabilities at a temperature.

    .. math:: \log \sum_j w_j \, \mathrm{softmax}(z_j / T)

    Args:
        logits: z of each teacher, (B, C, *spatial).
        weights: w, (N,), with sum 1.
        temperature: T > 0.
        sigmoid: regions: the result is (B, R, *spatial, 2), for region and not region.
    """
    parts = []
    for z, weight in zip(logits, weights, strict=True):
        if sigmoid:
            z = torch.stack((z, torch.zeros_like(z)), -1)
        parts.append((z / temperature).log_softmax(-1 if sigmoid else 1) + weight.log())
    return torch.stack(parts).logsumexp(0) if len(parts) > 1 else parts[0]


def resize(x: Tensor, shape: Sequence[int], how: str) -> Tensor:
    """(B, C, *spatial) -> (B, C, *shape), by ``mean`` or ``nearest`` as :meth:`SoftTargets.resized` has them."""
    if tuple(x.shape[2:]) == tuple(shape):
        return x
    if how == "nearest":
        return F.interpolate(x, tuple(shape), mode="nearest-exact")
    two = len(shape) == 2
    blocks = [big // small for big, small in zip(x.shape[2:], shape, strict=True)]
    if all(big == small * block for big, small, block in zip(x.shape[2:], shape, blocks, strict=True)):
        return F.avg_pool2d(x, blocks) if two else F.avg_pool3d(x, blocks)  # faster than adaptive pooling on a CPU
    pool = nn.AdaptiveAvgPool2d(tuple(shape)) if two else nn.AdaptiveAvgPool3d(tuple(shape))
    return pool(x)
