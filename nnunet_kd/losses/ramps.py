"""Weights that rise or fall over the training."""

import math

from nnunet_kd.losses.term import Term


def ramp(kind: str, progress: float, length: float = 1.0) -> float:
    """Factor in [0, 1] of a loss weight.

    ``none``: 1. ``linear``: t. ``gaussian``: exp(-5 (1 - t)^2). ``fade``: 1 - t. With t = progress / length,
    held to [0, 1].

    Source: Choi et al. 2022, Section 2.2 (gaussian, the warm-up lambda(t)).

    Args:
        kind: ``none``, ``linear``, ``gaussian`` or ``fade``.
        progress: fraction of the training that has passed, in [0, 1].
        length: fraction of the training over which the weight rises or falls, in (0, 1].

    Raises:
        ValueError: for another kind.
    """
    t = min(1.0, max(0.0, progress) / length)
    if kind == "none":
        return 1.0
    if kind == "linear":
        return t
    if kind == "gaussian":
        return math.exp(-5 * (1 - t) ** 2)
    if kind == "fade":
        return 1 - t
    raise ValueError(f"ramp kind {kind!r}: expected 'none', 'linear', 'gaussian' or 'fade'")


def ramped_weight(term: Term, progress: float) -> float:
    """Weight of a term at a point of the training, see :func:`ramp`."""
    return term.weight * ramp(term.ramp, progress, term.ramp_length)
