"""Factors of loss weights that rise or fall over the training."""

import math


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

    Example:
        >>> [ramp("linear", progress, length=0.5) for progress in (0, 0.25, 1)]
        [0.0, 0.5, 1.0]
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
