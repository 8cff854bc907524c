"""The sliding window: where it stands, how its predictions are weighted, and slices as soon as they are finished."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

import numpy as np
from scipy.ndimage import gaussian_filter

from .verify import BundleError

Network = Callable[[np.ndarray], np.ndarray]
_SIGMA = 1 / 8  # of the Gaussian, fraction of the patch
_PEAK = 10.0


def importance(patch: Sequence[int]) -> np.ndarray:
    """Gaussian weight of each voxel of the patch, values of half precision in float32, nowhere 0."""
    weight = np.zeros(patch)
    weight[tuple(n // 2 for n in patch)] = 1
    weight = gaussian_filter(weight, [n * _SIGMA for n in patch], mode="constant", cval=0)
    half = (weight * (_PEAK / weight.max())).astype(np.float16)
    half[half == 0] = half[half != 0].min()
    return half.astype(np.float32)


def window_starts(size: int, patch: int, step: float) -> list[int]:
    """First voxels of the windows along an axis: as many as the step demands, evenly spread."""
    count = int(np.ceil((size - patch) / (patch * step))) + 1
    return [round((size - patch) / (count - 1) * i) for i in range(count)] if count > 1 else [0]


def mirrored(network: Network, axes: Sequence[int]) -> Network:
    """The mean of a network's predictions (1, C, *patch) over all mirrorings of its input along axes of the patch."""
    flips = [tuple(a + 2 for a in c) for r in range(len(axes) + 1) for c in combinations(axes, r)]

    def run(patch: np.ndarray) -> np.ndarray:
        total = np.array(network(patch))
        for f in flips[1:]:
            total += np.flip(network(np.ascontiguousarray(np.flip(patch, f))), f)
        total /= len(flips)
        return total

    return run if len(flips) > 1 else network


def predict_slices(
    data: np.ndarray,
    network: Network,
    patch: Sequence[int],
    outputs: int,
    step: float,
    progress: Callable[[float], None] | None = None,
) -> Iterator[np.ndarray]:
    """Logits of an image, as soon as no further window covers them: only the depth of one patch is in memory.

    Sums and weights have half precision, as nnU-Net's have.

    Args:
        data: (C, z, y, x), float32.
        network: (1, C, *patch) -> (1, outputs, *patch).
        patch: voxels of the network's input; two numbers: each slice by itself.
        outputs: classes or regions.
        step: of the window, fraction of the patch.
        progress: is told the share that is done.

    Yields:
        (outputs, n, y, x), float16: the next n slices.

    Raises:
        BundleError: when logits are too large for half precision.
    """
    shape = data.shape[1:]
    window = (1, *patch) if len(patch) == 2 else tuple(patch)
    padding = [max(w - s, 0) for w, s in zip(window, shape, strict=True)]
    if any(padding):
        data = np.pad(data, [(0, 0), *((p // 2, p - p // 2) for p in padding)])
    low = [p // 2 for p in padding]
    size = data.shape[1:]
    weight = importance(patch).reshape(window)
    if len(patch) == 2:
        starts = [list(range(size[0]))]
        starts += [window_starts(n, p, step) for n, p in zip(size[1:], patch, strict=True)]
    else:
        starts = [window_starts(n, p, step) for n, p in zip(size, patch, strict=True)]
    logits = np.zeros((outputs, window[0], *size[1:]), np.float16)
    weights = np.zeros((window[0], *size[1:]), np.float16)
    for i, z in enumerate(starts[0]):
        for n, (y, x) in enumerate(product(*starts[1:])):
            patch_data = data[:, z : z + window[0], y : y + window[1], x : x + window[2]]
            prediction = network(np.ascontiguousarray(patch_data).reshape(1, -1, *patch)).reshape(outputs, *window)
            here = (slice(None), slice(y, y + window[1]), slice(x, x + window[2]))
            _add(logits[(slice(None), *here)], prediction * weight)
            _add(weights[here], weight)
            if progress is not None:
                progress((i + (n + 1) / (len(starts[1]) * len(starts[2]))) / len(starts[0]))
        following = starts[0][i + 1] if i + 1 < len(starts[0]) else size[0]
        done = following - z
        finished = _divided(logits[:, :done], weights[:done])
        inside = slice(max(low[0] - z, 0), min(low[0] + shape[0] - z, done))
        if inside.start < inside.stop:
            yield finished[:, inside, low[1] : low[1] + shape[1], low[2] : low[2] + shape[2]]
        for total in (logits.swapaxes(0, 1), weights):
            total[: window[0] - done] = total[done:].copy()
            total[window[0] - done :] = 0


def _add(total: np.ndarray, addend: np.ndarray) -> None:
    """total (float16) += addend (float32), rounded once."""
    total[...] = total.astype(np.float32) + addend


def _divided(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    result, divisor = np.empty(logits.shape, np.float16), weights.astype(np.float32)
    for one, total in zip(result, logits, strict=True):  # one class after the other: float32 takes twice the memory
        one[...] = total.astype(np.float32) / divisor
        if not np.isfinite(one).all():
            raise BundleError("gives logits that are no numbers of half precision; nnU-Net cannot predict it either")
    return result
