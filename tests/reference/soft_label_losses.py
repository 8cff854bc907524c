"""Soft-label losses in float64 NumPy, one voxel at a time, straight from the formulas."""

import math

import numpy as np


def voxels(logits, soft_labels, valid):
    """Valid voxels one by one: (sample, logits (C,), soft labels (C,))."""
    for index in np.ndindex(logits.shape[0], *logits.shape[2:]):
        b, *x = index
        if valid is None or valid[(b, 0, *x)]:
            yield b, np.float64(logits[(b, slice(None), *x)]), np.float64(soft_labels[(b, slice(None), *x)])


def distributions(scores, sigmoid):
    """Scores (C,) -> probabilities of the outcomes: one row of C, or C rows (region, not region)."""
    if sigmoid:
        return [(1 / (1 + math.exp(-s)), 1 / (1 + math.exp(s))) for s in scores]
    e = np.exp(scores - scores.max())
    return [e / e.sum()]


def student(scores, sigmoid):
    """The student's probabilities (C,)."""
    rows = distributions(scores, sigmoid)
    return np.array([r[0] for r in rows]) if sigmoid else rows[0]


def tempered_teacher(q, temperature, sigmoid, smallest):
    """Probabilities to the power 1/T, renormalised: tempering without logits or logarithms."""
    rows = [(p, 1 - p) for p in q] if sigmoid else [q]
    powers = [[max(p, smallest) ** (1 / temperature) for p in row] for row in rows]
    return [[p / sum(row) for p in row] for row in powers]


def kl_divergence(logits, soft_labels, valid, temperature, direction, sigmoid, smallest):
    """T^2 times the mean over voxels of the sum over outcomes of a ln(a / b)."""
    values = []
    for _, z, q in voxels(logits, soft_labels, valid):
        teacher = tempered_teacher(q, temperature, sigmoid, smallest)
        pupil = distributions(z / temperature, sigmoid)
        first, second = (teacher, pupil) if direction == "teacher_student" else (pupil, teacher)
        values.append(
            sum(a * math.log(a / b) for r, s in zip(first, second, strict=True) for a, b in zip(r, s, strict=True))
        )
    return temperature**2 * math.fsum(values) / len(values)


def mse_of_probabilities(logits, soft_labels, valid, sigmoid):
    """Mean over voxels and classes of (p - q)^2."""
    squares = [(p - t) ** 2 for _, z, q in voxels(logits, soft_labels, valid) for p, t in zip(student(z, sigmoid), q)]  # noqa: B905
    return math.fsum(squares) / len(squares)


def soft_cross_entropy(logits, soft_labels, valid, sigmoid):
    """Mean over voxels of -sum q ln p; for regions of both outcomes."""
    values = []
    for _, z, q in voxels(logits, soft_labels, valid):
        targets = [(t, 1 - t) for t in q] if sigmoid else [q]
        rows = zip(targets, distributions(z, sigmoid), strict=True)
        values.append(-sum(t * math.log(p) for r, s in rows for t, p in zip(r, s, strict=True)))
    return math.fsum(values) / len(values)


def soft_dice_loss(logits, soft_labels, valid, batch_dice, sigmoid, smooth=1e-5):
    """Mean over foreground classes (and samples) of sum (p - q)^2 / (sum p^2 + sum q^2 + smooth).

    The same number as 1 - (2 sum p q + smooth) / (sum p^2 + sum q^2 + smooth), which the library computes.
    """
    first = 0 if sigmoid else 1
    groups = 1 if batch_dice else logits.shape[0]
    difference, mass = np.zeros((2, groups, logits.shape[1] - first))
    for b, z, q in voxels(logits, soft_labels, valid):
        p, q = student(z, sigmoid)[first:], q[first:]
        difference[0 if batch_dice else b] += (p - q) ** 2
        mass[0 if batch_dice else b] += p**2 + q**2
    return float((difference / (mass + smooth)).mean())
