"""From logits at the network's spacing to labels on the image's grid, without all logits on that grid.

Interpolation between voxels of one label gives that label: only where neighbours differ are logits interpolated.
"""

from collections.abc import Sequence

import numpy as np

from .resampling import linear_taps, resample


def to_labels(logits: np.ndarray, regions: Sequence[int] | None) -> np.ndarray:
    """The index (uint16) of the largest of the classes (C, ...); with regions 0, or 1 + the index of the last region
    that is likelier than not, which is what it is painted with.
    """
    result = np.zeros(logits.shape[1:], np.uint16)
    if regions is not None:
        for i in range(len(logits)):
            result[logits[i] > 0] = i + 1
        return result
    best = logits[0].astype(np.float32)
    for i in range(1, len(logits)):
        logit = logits[i].astype(np.float32)
        np.copyto(result, i, where=logit > best)
        np.maximum(best, logit, out=best)
    return result


class LabelsOnGrid:
    """Takes finished slices of logits, one after the other, and keeps only those that are still needed."""

    def __init__(
        self,
        shape: Sequence[int],
        new_shape: Sequence[int],
        orders: Sequence[int],
        regions: Sequence[int] | None,
        half: bool,
    ):
        """Args:
        shape: (z, y, x) of all logits.
        new_shape: of the result.
        orders: of the interpolation along each axis, 0 or 1.
        regions: see :func:`to_labels`.
        half: interpolated logits are rounded to half precision.
        """
        self._taps = [linear_taps(n, m, o) for n, m, o in zip(shape, new_shape, orders, strict=True)]
        self._regions, self._half = regions, half
        self._logits: list[np.ndarray] = []  # slices (C, y, x) from self._first on
        self._labels: list[np.ndarray] = []
        self._same: list[np.ndarray] = []  # whether the in-plane neighbours of a voxel have its label
        self._first = self._done = 0
        self.result = np.zeros(new_shape, np.uint16)

    def add(self, logits: np.ndarray) -> None:
        """The next slices (C, n, y, x)."""
        labels = to_labels(logits, self._regions)
        for z in range(labels.shape[0]):
            self._logits.append(logits[:, z])
            self._labels.append(labels[z])
            self._same.append(self._uniform(labels[z]))
        lower, upper, _ = self._taps[0]
        there = self._first + len(self._logits)
        while self._done < len(lower) and upper[self._done] < there:
            self._slice(self._done)
            self._done += 1
        gone = (lower[self._done] if self._done < len(lower) else there) - self._first
        for kept in (self._logits, self._labels, self._same):
            del kept[:gone]
        self._first += gone

    def _uniform(self, labels: np.ndarray) -> np.ndarray:
        """Whether all in-plane neighbours that a voxel is interpolated with, itself and the next ones, are alike."""
        lowest, highest = labels.copy(), labels.copy()
        for axis in (0, 1):
            lower, upper, _ = self._taps[axis + 1]
            if (lower != upper).any():
                for extreme, of in ((lowest, np.minimum), (highest, np.maximum)):
                    along = extreme.swapaxes(0, axis)
                    along[:-1] = of(along[:-1], along[1:])
        return lowest == highest

    def _slice(self, i: int) -> None:
        lower, upper, weight = (t[i] for t in self._taps[0])
        a, b = lower - self._first, upper - self._first
        (y0, y1, wy), (x0, x1, wx) = self._taps[1:]
        labels, same = self._labels[a], self._same[a]
        if a != b:
            same = same & self._same[b] & (labels == self._labels[b])
        result = self.result[i]
        result[...] = labels.take(y0, 0).take(x0, 1)
        y, x = np.nonzero(~same.take(y0, 0).take(x0, 1))
        if not len(y):
            return
        width = labels.shape[1]
        corners = [(a, 1 - weight), (b, weight)] if a != b else [(a, np.float32(1))]
        total = np.zeros((len(self._logits[a]), len(y)), np.float32)
        for z, wz in corners:
            plane = self._logits[z].reshape(len(self._logits[z]), -1)
            for rows, wr in ((y0, 1 - wy), (y1, wy)):
                for columns, wc in ((x0, 1 - wx), (x1, wx)):
                    values = plane.take(rows[y] * width + columns[x], axis=1).astype(np.float32)
                    values *= wz * wr[y] * wc[x]
                    total += values
        result[y, x] = to_labels(total.astype(np.float16) if self._half else total, self._regions)


def probabilities_on_grid(
    logits: np.ndarray,
    new_shape: Sequence[int],
    orders: Sequence[int],
    regions: Sequence[int] | None,
    half: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as :func:`to_labels` numbers them, and probabilities (C, z, y, x), float32, of logits on another grid."""
    resampled = resample(logits, new_shape, orders)
    if half:
        resampled = resampled.astype(np.float16)
    probabilities = resampled.astype(np.float32)
    if regions is None:
        probabilities -= probabilities.max(0)
        np.exp(probabilities, out=probabilities)
        probabilities /= probabilities.sum(0)
    else:
        with np.errstate(over="ignore"):  # 1 / infinity is what it should be
            np.divide(1, 1 + np.exp(-probabilities), out=probabilities)
    return to_labels(resampled, regions), probabilities
