"""Losses against the reference segmentation in float64 NumPy, straight from the formulas."""

import math

import numpy as np


def places(probabilities, valid):
    """(sample, place) of every valid voxel."""
    for b, *v in np.ndindex(probabilities.shape[0], *probabilities.shape[2:]):
        if valid is None or valid[(b, 0, *v)]:
            yield b, tuple(v)


def probabilities_of(logits, sigmoid):
    if sigmoid:
        return 1 / (1 + np.exp(-logits))
    e = np.exp(logits)
    return e / e.sum(1, keepdims=True)


def dice(probabilities, classes, valid, squared, smooth=1e-5):
    values = []
    for c in range(classes.shape[1]):
        pairs = [(probabilities[(b, c, *v)], classes[(b, c, *v)]) for b, v in places(probabilities, valid)]
        overlap = sum(p * g for p, g in pairs)
        total = sum(p ** (2 if squared else 1) + g for p, g in pairs)
        values.append(1 - (2 * overlap + smooth) / (total + smooth))
    return np.mean(values)


def jaccard_loss(wrong, truth):
    """1 - |intersection| / |union| when exactly the voxels in ``wrong`` are predicted wrongly."""
    predicted = {v for v in truth if truth[v] != (v in wrong)}
    true = {v for v in truth if truth[v]}
    union = predicted | true
    return 1 - len(predicted & true) / len(union) if union else 0.0


def lovasz(logits, classes, valid, sigmoid):
    """Lovasz extension by its definition: sorted errors times the growth of the set function."""
    p, values = probabilities_of(logits, sigmoid), []
    for c in range(classes.shape[1]):
        truth = {(b, v): bool(classes[(b, c, *v)]) for b, v in places(p, valid)}
        if not any(truth.values()):
            continue
        error = {(b, v): abs(p[(b, c, *v)] - truth[(b, v)]) for b, v in truth}
        order = sorted(truth, key=lambda v: -error[v])
        growth = [
            jaccard_loss(set(order[: i + 1]), truth) - jaccard_loss(set(order[:i]), truth) for i in range(len(order))
        ]
        values.append(sum(error[v] * g for v, g in zip(order, growth, strict=True)))
    return np.mean(values) if values else 0.0


def focal(logits, classes, valid, gamma, alpha, sigmoid):
    p, values = probabilities_of(logits, sigmoid), []
    for b, v in places(p, valid):
        total = 0.0
        for c in range(classes.shape[1]):
            true, q = bool(classes[(b, c, *v)]), p[(b, c, *v)]
            if sigmoid:
                q, weight = (q, alpha) if true else (1 - q, 1 - alpha)
            elif true:
                weight = 1 - alpha if c == 0 else alpha
            else:
                continue
            total -= weight * (1 - q) ** gamma * math.log(q)
        values.append(total)
    return np.mean(values)
