"""Independent float64 NumPy reference: ridge regression of one convolution, place by place."""

import itertools

import numpy as np


def columns(image: np.ndarray, kernel: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    """What a zero-padded convolution sees: image (B, C, *spatial) -> (B * places, C * kernel)."""
    half = [(k - 1) // 2 for k in kernel]
    padded = np.pad(image, [(0, 0), (0, 0), *((h, h) for h in half)])
    places = [range(0, size, s) for size, s in zip(image.shape[2:], stride, strict=True)]
    rows = []
    for b in range(len(image)):
        for place in itertools.product(*places):
            window = tuple(slice(p, p + k) for p, k in zip(place, kernel, strict=True))
            rows.append(padded[(b, slice(None), *window)].ravel())
    return np.stack(rows)


def ridge(x: np.ndarray, y: np.ndarray, strength: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights (D, O) and constants (O,); each input is held back in proportion to its own sum of squares."""
    mean_x = x.mean(0) if intercept else np.zeros(x.shape[1])
    mean_y = y.mean(0) if intercept else np.zeros(y.shape[1])
    a, b = x - mean_x, y - mean_y
    holding = np.diag(strength * (a**2).sum(0))
    weights = np.linalg.solve(a.T @ a + holding, a.T @ b)
    return weights, mean_y - mean_x @ weights
