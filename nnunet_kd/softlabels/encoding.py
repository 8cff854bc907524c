"""Probabilities <-> the bytes of the store.

Softmax labels store the C - 1 foreground classes; background is what is missing to the whole. Regions store all R
sigmoids.
"""

import numpy as np

ONE = 255


def encode(probabilities: np.ndarray, regions: bool, dtype: str) -> np.ndarray:
    """Probabilities to stored values.

    Args:
        probabilities: (C, z, y, x) that sum to 1 over C, or (R, z, y, x) with ``regions``; float.
        regions: independent sigmoids instead of a softmax.
        dtype: ``uint8`` or ``float16``.

    Returns:
        (C - 1, z, y, x) or (R, z, y, x). As uint8 in units of 1/255; all C then sum to exactly 255, by largest
        remainders, so that the order of the classes is kept and no value is off by 1/255 or more.
    """
    probabilities = np.clip(probabilities, 0, 1, dtype=np.float32)
    if dtype == "float16":
        return (probabilities if regions else (probabilities / probabilities.sum(0))[1:]).astype(np.float16)
    if regions:
        return np.rint(probabilities * ONE).astype(np.uint8)
    return _encode_softmax(probabilities)[1:]


def _encode_softmax(probabilities: np.ndarray) -> np.ndarray:
    """Largest-remainder rounding of (C, ...) to uint8 whose sum over C is 255."""
    c = probabilities.shape[0]
    flat = probabilities.reshape(c, -1)
    scaled = flat * np.float32(ONE)
    encoded = np.rint(scaled).astype(np.uint8)
    # Almost every voxel of an image is certain and already sums to 255; only the others need the sort.
    unsure = np.flatnonzero(encoded.sum(axis=0, dtype=np.int32) != ONE)
    if unsure.size:
        part = scaled[:, unsure].astype(np.float64)
        part *= ONE / part.sum(axis=0, keepdims=True)
        floor = np.floor(part)
        missing = np.rint(ONE - floor.sum(axis=0)).astype(np.int64)
        rank = np.argsort(np.argsort(-(part - floor), axis=0, kind="stable"), axis=0, kind="stable")
        encoded[:, unsure] = (floor + (rank < missing)).astype(np.uint8)
    return encoded.reshape(probabilities.shape)


def decode(stored: np.ndarray, regions: bool) -> np.ndarray:
    """Stored values to float32 probabilities (C, ...) or (R, ...); the inverse of :func:`encode` up to its rounding."""
    scale = np.float32(ONE) if stored.dtype == np.uint8 else np.float32(1)
    values = stored.astype(np.float32) / scale
    if regions:
        return values
    background = 1 - values.sum(axis=0, keepdims=True)
    return np.concatenate((np.clip(background, 0, 1), values), axis=0)
