r"""Ridge regression of a convolution's weights on what it sees and what it should give.

For inputs x (the values under the kernel, and 1 for a bias) and targets y, summed over sampled places:

.. math:: W = \arg\min_W \sum |W x - y|^2 + \lambda \sum_i d_i |W_i|^2, \quad d_i = \sum x_i^2

Everything is kept as normal equations in float64, so that memory does not grow with the number of places.

Source: He et al. 2017, "Channel pruning for accelerating very deep neural networks", Eq. 5 (reconstruction of the
feature map by least squares). *Deviation*: a ridge, scaled to the diagonal; layers of other kernels and strides too.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

RIDGES = (1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Candidates for lambda, relative to the diagonal; chosen on patches that were held out."""


@dataclass
class NormalEquations:
    """Sums over places: of x x^T (D + 1, D + 1), x y^T (D + 1, O) and y^2 (O,); the last input is always 1.

    ``intercept`` says whether the outputs have a free constant, which no ridge holds back.
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor
    intercept: bool

    @classmethod
    def zeros(cls, inputs: int, outputs: int, intercept: bool, device: torch.device) -> "NormalEquations":
        """Equations of no place yet, in float64."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        return cls(zeros(inputs + 1, inputs + 1), zeros(inputs + 1, outputs), zeros(outputs), intercept)

    @property
    def places(self) -> int:
        """Number of places."""
        return int(self.xx[-1, -1])

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds places: x (N, D), y (N, O)."""
        x, y = x.to(self.xx), y.to(self.xx)
        x = torch.cat((x, x.new_ones(len(x), 1)), 1)  # (N, D + 1)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += y.square().sum(0)

    def __add__(self, other: "NormalEquations") -> "NormalEquations":
        """Equations of the places of both."""
        return NormalEquations(self.xx + other.xx, self.xy + other.xy, self.yy + other.yy, self.intercept)

    def solve(self, ridge: float) -> Tensor:
        """Weights (D + 1, O), the constants last; ``ridge`` is relative to each input's own sum of squares."""
        xx, xy, mean = self.xx[:-1, :-1], self.xy[:-1], self.xx[:-1, -1] / max(self.places, 1)
        if self.intercept:  # around the mean: the constant is not shrunk
            xx = xx - self.places * mean[:, None] * mean
            xy = xy - mean[:, None] * self.xy[-1]
        scale = xx.diagonal().clamp_min(0).sqrt()
        used = scale > 1e-6 * scale.max()  # an input that never changes gets weight 0
        weights = torch.zeros_like(self.xy)
        if used.any():
            s = scale[used, None]
            a = xx[used][:, used] / (s * s.T)
            a.diagonal().add_(ridge)
            weights[:-1][used] = torch.cholesky_solve(xy[used] / s, torch.linalg.cholesky(a)) / s
        if self.intercept:
            weights[-1] = self.xy[-1] / max(self.places, 1) - mean @ weights[:-1]
        return weights

    def error(self, weights: Tensor) -> Tensor:
        """Sum of squared errors of weights (D + 1, O), for each output (O,)."""
        return self.yy - 2 * (weights * self.xy).sum(0) + (weights * (self.xx @ weights)).sum(0)


def solve_with_held_out(fit: NormalEquations, held_out: NormalEquations) -> tuple[Tensor, float]:
    """Weights (D + 1, O) from all places, with the ridge that predicts the held-out ones best; and that ridge.

    Outputs count alike: errors are relative to how far each is spread.
    """
    spread = (held_out.yy - held_out.xy[-1].square() / max(held_out.places, 1)).clamp_min(1e-12)

    def score(ridge: float) -> float:
        return float((held_out.error(fit.solve(ridge)) / spread).mean())

    best = min(RIDGES, key=score) if held_out.places else RIDGES[1]
    return (fit + held_out).solve(best), best


def fit_scores(x: Tensor, logits: Tensor, start: Tensor, sigmoid: bool) -> Tensor:
    """Weights (D + 1, O) of a segmentation layer whose probabilities are nearest to the teacher's.

    Equal logits would be too much to ask: far from any border their size says nothing. The cross-entropy with the
    teacher's probabilities is convex in the weights; L-BFGS minimises it, from the solution for the logits.

    Args:
        x: features (N, D).
        logits: of the teacher (N, O).
        start: weights (D + 1, O), constants last.
        sigmoid: independent regions instead of classes.
    """
    weights = start.to(x).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")
    target = logits.sigmoid() if sigmoid else logits.softmax(1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        mine = x @ weights[:-1] + weights[-1]
        if sigmoid:
            loss = F.binary_cross_entropy_with_logits(mine, target)
        else:
            loss = F.cross_entropy(mine, target)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weights.detach()


def sample_places(weights: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Up to ``number`` different places of a batch, drawn by their weights.

    Args:
        weights: (B, *spatial), positive, on the CPU.
        number: of places.
        generator: of the random numbers.

    Returns:
        Flat indices of ``weights``, ascending.

    Source: Efraimidis and Spirakis 2006, weighted sampling without replacement by the largest u^(1 / w).
    """
    if weights.numel() <= number:
        return torch.arange(weights.numel())
    keys = torch.rand(weights.numel(), generator=generator).log() / weights.flatten()
    return keys.topk(number).indices.sort().values


def _coordinates(places: Tensor, like: Tensor, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Index in the batch and along each axis of flat indices, on the device of ``like``."""
    return torch.unravel_index(places.to(like.device), shape)


def at(features: Tensor, places: Tensor) -> Tensor:
    """Values of features (B, C, \\*spatial) at flat indices of (B, \\*spatial): (N, C)."""
    b, *where = _coordinates(places, features, (features.shape[0], *features.shape[2:]))
    return features[(b, slice(None), *where)]


def under_kernel(conv: Any, features: Tensor, places: Tensor) -> Tensor:
    """What a convolution sees at places of its output.

    Args:
        conv: a convolution with zero padding.
        features: its input (B, C, *spatial).
        places: flat indices of its output's (B, *spatial).

    Returns:
        (N, C * kernel): in the order of ``conv.weight`` flattened over input channels and kernel.
    """
    padded = F.pad(features, [p for size in reversed(conv.padding) for p in (size, size)])
    b, *where = _coordinates(places, features, (features.shape[0], *output_shape(conv, features)))
    where = [w * stride for w, stride in zip(where, conv.stride, strict=True)]
    offsets = itertools.product(*(range(size) for size in conv.kernel_size))
    seen = [padded[(b, slice(None), *(w + o for w, o in zip(where, offset, strict=True)))] for offset in offsets]
    return torch.stack(seen, 2).flatten(1)  # (N, C, kernel) -> (N, C * kernel)


def under_transposed(conv: Any, target: Tensor, places: Tensor) -> Tensor:
    """Values of a transposed convolution's output, for places of its input.

    Args:
        conv: a transposed convolution whose stride is its kernel.
        target: its output (B, O, *spatial).
        places: flat indices of its input's (B, *spatial).

    Returns:
        (N, O * kernel): in the order of ``conv.weight`` flattened over output channels and kernel.
    """
    small = [size // stride for size, stride in zip(target.shape[2:], conv.stride, strict=True)]
    b, *where = _coordinates(places, target, (target.shape[0], *small))
    where = [w * stride for w, stride in zip(where, conv.stride, strict=True)]
    offsets = itertools.product(*(range(size) for size in conv.kernel_size))
    values = [target[(b, slice(None), *(w + o for w, o in zip(where, offset, strict=True)))] for offset in offsets]
    return torch.stack(values, 2).flatten(1)


def output_shape(conv: Any, features: Tensor) -> list[int]:
    """Spatial shape of a convolution's output."""
    return [
        (size + 2 * padding - kernel) // stride + 1
        for size, padding, kernel, stride in zip(
            features.shape[2:], conv.padding, conv.kernel_size, conv.stride, strict=True
        )
    ]
