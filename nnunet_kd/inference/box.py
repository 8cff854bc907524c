"""Boxes of voxels: around a mask, with a margin, from one grid to another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """Half-open ranges ``start <= index < stop``, one for each axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Box":
        """Everything of an array."""
        return cls((0,) * len(shape), tuple(int(s) for s in shape))

    @classmethod
    def around(cls, mask: np.ndarray) -> "Box | None":
        """The smallest box with all True voxels; None without any."""
        ranges = []
        for axis in range(mask.ndim):
            line = np.flatnonzero(mask.any(tuple(a for a in range(mask.ndim) if a != axis)))
            if line.size == 0:
                return None
            ranges.append((int(line[0]), int(line[-1]) + 1))
        return cls(*zip(*ranges, strict=True))

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """To index an array with."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def scaled(self, shape: Sequence[int], new_shape: Sequence[int]) -> "Box":
        """The same region in a finer or coarser grid of the same extent, rounded outwards."""
        factors = [n / s for s, n in zip(shape, new_shape, strict=True)]
        return Box(
            tuple(math.floor(a * f + 1e-9) for a, f in zip(self.start, factors, strict=True)),
            tuple(math.ceil(b * f - 1e-9) for b, f in zip(self.stop, factors, strict=True)),
        )

    def shifted(self, offset: Sequence[int]) -> "Box":
        """Moved by ``offset`` voxels."""
        return Box(
            tuple(a + o for a, o in zip(self.start, offset, strict=True)),
            tuple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def permuted(self, axes: Sequence[int]) -> "Box":
        """With the axes in another order, as ``numpy.transpose`` does it."""
        return Box(tuple(self.start[a] for a in axes), tuple(self.stop[a] for a in axes))

    def intersection(self, other: "Box") -> "Box | None":
        """What both have; None when that is nothing."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def grown(
        self, shape: Sequence[int], spacing_mm: Sequence[float], margin: float, margin_mm: float, least: Sequence[int]
    ) -> "Box":
        """With a margin on every side, inside an array.

        Args:
            shape: shape of the array.
            spacing_mm: size of a voxel along each axis.
            margin: fraction of the box's length that is added on each side.
            margin_mm: what is added on each side at least.
            least: voxels along each axis that the result has where the array has them; a window of that size would
                otherwise see padding in place of image.
        """
        ranges = []
        for a, b, size, spacing, wanted in zip(self.start, self.stop, shape, spacing_mm, least, strict=True):
            more = math.ceil(max(margin * (b - a), margin_mm / spacing) - 1e-9)
            a, b = max(0, a - more), min(size, b + more)
            lack = max(0, min(wanted, size) - (b - a))
            a, b = a - lack // 2, b + lack - lack // 2
            into = max(0, -a) - max(0, b - size)  # what would leave the array on one side goes to the other
            ranges.append((a + into, b + into))
        return Box(*zip(*ranges, strict=True))
