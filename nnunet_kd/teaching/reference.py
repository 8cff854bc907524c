"""The reference of a batch as masks, for those that ask for it."""

from functools import cached_property
from typing import Any

from torch import Tensor

from nnunet_kd.data.mixing import MixedReference
from nnunet_kd.losses.regions import unpack_reference, with_background


class Reference:
    """Masks of the reference segmentation of a batch; unlabeled cases have none. Of mixed patches the first counts."""

    def __init__(self, target: Any, heads: int, sigmoid: bool, unlabeled: int = 0):
        """Args:
        target: as nnU-Net's loss takes it: (B, 1, *spatial), a list of them, or two mixed ones.
        heads: number of the network's output channels.
        sigmoid: region-based labels.
        unlabeled: number of unlabeled cases, the last ones of the batch.
        """
        leading = target.first if isinstance(target, MixedReference) else target
        self._target = leading[0] if isinstance(leading, list) else leading
        self._heads, self._sigmoid, self._unlabeled = heads, sigmoid, unlabeled

    @cached_property
    def _masks(self) -> tuple[Tensor, Tensor]:
        classes, valid = unpack_reference(self._target, self._heads, self._sigmoid)
        if self._unlabeled:
            classes[-self._unlabeled :], valid[-self._unlabeled :] = False, False
        return classes, valid

    @property
    def classes(self) -> Tensor:
        """Classes or regions, (B, C, *spatial), bool."""
        return self._masks[0]

    @property
    def valid(self) -> Tensor:
        """Voxels that have a reference, (B, 1, *spatial), bool."""
        return self._masks[1]

    @property
    def regions(self) -> Tensor:
        """What features are compared by: classes, or regions with the background before them, (B, K, *spatial)."""
        return with_background(self.classes, self.valid) if self._sigmoid else self.classes
