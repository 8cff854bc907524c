"""Mixup and CutMix of the patches of a batch: images, soft labels and reference alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_kd.config import Augmentation


@dataclass(frozen=True)
class MixedReference:
    """Two references of one batch, weighted.

    Attributes:
        share: of the first, in [0.5, 1].
        first: as nnU-Net's loss takes a reference: a tensor (B, C, *spatial), or a list of them, one for each output.
        second: the same of the partners.
    """

    share: float
    first: Any
    second: Any

    def map(self, change: Callable[[Any], Any]) -> "MixedReference":
        """The same change of both."""
        return MixedReference(self.share, change(self.first), change(self.second))


@dataclass(frozen=True)
class Mixing:
    r"""How the patches of a batch are mixed, each with one partner.

    Mixup: :math:`\tilde x = \lambda x + (1 - \lambda) x'`; soft labels alike; the hard-label loss is the sum of those
    against both references, weighted alike. CutMix: a box of every patch is its partner's, in image, soft labels and
    reference, at every resolution.

    Source: Zhang et al. 2018, "mixup: beyond empirical risk minimization"; Yun et al. 2019, "CutMix". *Deviations*:
    :math:`\lambda` is at least 0.5, so that a patch has a first reference (Berthelot et al. 2019, MixMatch, Eq. 9); the
    box lies within the patch, its edges on the grid of the lowest-resolution output.

    Attributes:
        share: lambda, of the patch itself; for CutMix the share of the box is 1 - lambda.
        shift: the partner of a patch is the one that many places before it, among its kind.
        corner: where the box begins, as a fraction of the room that it has along each axis; None for mixup.
    """

    share: float
    shift: int
    corner: tuple[float, ...] | None = None


def draw_mixing(config: Augmentation, dimensions: int) -> Mixing | None:
    """How the next batch is mixed, from NumPy's generator; None: not at all.

    Args:
        config: probabilities and alphas.
        dimensions: of the patches.
    """
    chance = np.random.uniform()
    shift = int(np.random.randint(1, 2**16))
    if chance < config.mixup.probability:
        share = float(np.random.beta(config.mixup.alpha, config.mixup.alpha))
        return Mixing(max(share, 1 - share), shift)
    if chance < config.mixup.probability + config.cutmix.probability:
        share = float(np.random.beta(config.cutmix.alpha, config.cutmix.alpha))
        return Mixing(share, shift, tuple(np.random.uniform(size=dimensions).tolist()))
    return None


def mix(mixing: Mixing, data: Tensor, target: Any, unlabeled: int) -> tuple[Tensor, Any]:
    """The mixed batch.

    Args:
        mixing: from :func:`draw_mixing`.
        data: (B, C, *spatial), images and the channels of soft labels behind them.
        target: reference (B, R, *spatial), or a list of them, one for each output, highest resolution first.
        unlabeled: number of unlabeled cases, the last ones of the batch; they are mixed among themselves.

    Returns:
        ``data``, and the reference: of mixup a :class:`MixedReference`, of CutMix as it came.
    """
    partners = _partners(mixing.shift, len(data), unlabeled).to(data.device)
    targets = target if isinstance(target, list) else [target]
    if mixing.corner is None:
        second = [t[partners] for t in targets]
        mixed = MixedReference(mixing.share, target, second if isinstance(target, list) else second[0])
        return mixing.share * data + (1 - mixing.share) * data[partners], mixed
    box = _box(mixing.share, mixing.corner, targets[-1].shape[2:])
    paste = partial(_paste, partners=partners, box=box, grid=targets[-1].shape[2:])
    pasted = [paste(t) for t in targets]
    return paste(data), pasted if isinstance(target, list) else pasted[0]


def _partners(shift: int, cases: int, unlabeled: int) -> Tensor:
    """Index (B,) of each case's partner: another one of its kind, where there is one."""
    parts = torch.arange(cases).split((cases - unlabeled, unlabeled))
    return torch.cat([p.roll(1 + shift % (len(p) - 1) if len(p) > 1 else 0) for p in parts])


def _box(share: float, corner: Sequence[float], grid: Sequence[int]) -> list[tuple[int, int]]:
    """First and last + 1 cell along each axis of the box that covers 1 - share of a grid, as far as whole cells can."""
    side = (1 - share) ** (1 / len(grid))
    sizes = [round(side * cells) for cells in grid]
    starts = [int(c * (cells - size + 1)) for c, cells, size in zip(corner, grid, sizes, strict=True)]
    return [(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _paste(x: Tensor, partners: Tensor, box: Sequence[tuple[int, int]], grid: Sequence[int]) -> Tensor:
    """``x`` (B, C, *spatial) with the partners' voxels in the box, whose cells are those of the coarser ``grid``."""
    factors = [size // cells for size, cells in zip(x.shape[2:], grid, strict=True)]
    where: Any = (..., *(slice(first * f, last * f) for (first, last), f in zip(box, factors, strict=True)))
    pasted = x.clone()
    pasted[where] = x[partners][where]
    return pasted
