"""Interpolation between grids, one axis after the other: nearest, linear, cubic spline; the centres of the outer
voxels' outer faces coincide (``align_corners=False``), and an image goes on beyond its border as it is there."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import spline_filter1d

from .description import Resampling

_PADDING = 12  # voxels beyond the border that a spline's coefficients see


def axis_orders(
    settings: Resampling, spacing: Sequence[float], new_spacing: Sequence[float]
) -> tuple[tuple[int, int, int], int | None]:
    """Order of the interpolation along each of three axes, and the axis across which slices are resampled one by one.

    Slices are resampled one by one when one axis alone has the largest spacing, by more than the threshold, in the
    grid that is left or, if not there, in the new one.
    """
    separate, axis = settings.separate_slices, None
    for s in (spacing, new_spacing):
        if separate or (separate is None and max(s) / min(s) > settings.anisotropy_threshold):
            coarsest = [i for i in range(3) if s[i] == max(s)]
            axis = coarsest[0] if len(coarsest) == 1 else None
            break
    orders = [settings.order] * 3
    if axis is not None:
        orders[axis] = settings.order_between_slices
    return (orders[0], orders[1], orders[2]), axis


def linear_taps(n: int, new_n: int, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower and upper neighbour of each new voxel along an axis, and the weight of the upper one (order 0 or 1)."""
    if n == new_n or order == 0:
        lower = np.minimum(np.floor((np.arange(new_n) + 0.5) * (n / new_n)).astype(np.intp), n - 1)
        return lower, lower, np.zeros(new_n, np.float32)
    position = np.clip((np.arange(new_n) + 0.5) * (n / new_n) - 0.5, 0, n - 1)
    lower = np.floor(position).astype(np.intp)
    return lower, np.minimum(lower + 1, n - 1), (position - lower).astype(np.float32)


def resample(
    data: np.ndarray, shape: Sequence[int], orders: Sequence[int], separate_axis: int | None = None
) -> np.ndarray:
    """Channels (C, z, y, x) on a grid of another shape, float32.

    Cubic splines may overshoot: the result is confined to the range of its input, of each slice across
    ``separate_axis`` where there is one, of the whole channel elsewhere.
    """
    if tuple(data.shape[1:]) == tuple(shape):
        return data
    result = np.empty((data.shape[0], *shape), np.float32)
    for c in range(data.shape[0]):
        channel = data[c].astype(np.float32, copy=False)
        limits: tuple[np.ndarray, np.ndarray] | None = None
        if 3 in orders:
            axes = None if separate_axis is None else tuple(a for a in range(3) if a != separate_axis)
            limits = channel.min(axis=axes, keepdims=True), channel.max(axis=axes, keepdims=True)
        for axis in sorted(range(3), key=lambda a: (a == separate_axis, shape[a] / channel.shape[a])):
            if axis == separate_axis and limits is not None:
                channel, limits = np.clip(channel, *limits), None
            channel = _resample_axis(channel, axis, shape[axis], orders[axis])
        result[c] = channel if limits is None else np.clip(channel, *limits)
    return result


def _resample_axis(data: np.ndarray, axis: int, new_n: int, order: int) -> np.ndarray:
    """One channel (z, y, x) with ``new_n`` voxels along an axis; slice by slice where that stays in the cache."""
    n = data.shape[axis]
    if n == new_n:
        return data
    index, weight = _taps(n, new_n, order)
    shape = [*data.shape]
    shape[axis] = new_n
    result = np.empty(shape, np.float32)
    if axis == 0:
        source = _coefficients(data) if order == 3 else data
        for i in range(new_n):
            np.multiply(source[index[0, i]], weight[0, i], out=result[i])
            for k in range(1, len(index)):
                result[i] += source[index[k, i]] * weight[k, i]
        return result
    for z in range(data.shape[0]):
        rows = np.ascontiguousarray(data[z] if axis == 1 else data[z].T)
        source = _coefficients(rows) if order == 3 else rows
        new_rows = source[index[0]] * weight[0, :, None]
        for k in range(1, len(index)):
            new_rows += source[index[k]] * weight[k, :, None]
        result[z] = new_rows if axis == 1 else new_rows.T
    return result


def _coefficients(data: np.ndarray) -> np.ndarray:
    """Coefficients of the cubic B-spline along the first axis, with a border of ``_PADDING``."""
    padded = np.pad(data, [(_PADDING, _PADDING)] + [(0, 0)] * (data.ndim - 1), mode="edge")
    return spline_filter1d(padded, 3, axis=0, output=np.float32, mode="nearest")


def _taps(n: int, new_n: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Per new voxel along an axis the voxels that it is made of and their weights, both (taps, new_n)."""
    if order < 3:
        lower, upper, upper_weight = linear_taps(n, new_n, order)
        taps = 1 if order == 0 else 2
        return np.stack([lower, upper])[:taps], np.stack([1 - upper_weight, upper_weight])[:taps]
    position = (np.arange(new_n) + 0.5) * (n / new_n) - 0.5 + _PADDING
    first = np.floor(position).astype(np.intp) - 1
    t = position - np.floor(position)
    weight = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    return first + np.arange(4)[:, None], weight.astype(np.float32)
