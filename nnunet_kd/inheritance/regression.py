r"""Ridge regression of a convolution's weights, from its inputs to its targets.

For inputs x (the values under the kernel, and 1 for a bias) and targets y, summed over sampled places:

.. math:: W = \arg\min_W \sum |W x - y|^2 + \lambda \sum_i d_i |W_i|^2, \quad d_i = \sum x_i^2

Where places are many, their sums are kept as normal equations, so that memory does not grow with them; where they are
fewer than the inputs (the deep layers of a wide network), the places themselves, and the same W comes from the dual,
smaller system. Everything is solved in float64.

Source: He et al. 2017, "Channel pruning for accelerating very deep neural networks", Eq. 5 (reconstruction of the
feature map by least squares). *Deviation*: a ridge, scaled to the diagonal; layers of other kernels and strides too.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

RIDGES = (1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Candidates for lambda, relative to the diagonal; chosen on patches that were held out."""


CLEARLY_WORSE = 1.02
BLOCK = 1024  # inputs whose sums with all others are added up at once


def equations(inputs: int, outputs: int, places: int, intercept: bool, device: torch.device) -> "Equations":
    """Empty equations for about ``places`` places, in whichever form is smaller.

    Args:
        inputs: number of inputs, D.
        outputs: number of outputs, O.
        places: expected number of places.
        intercept: the outputs have a constant, which the ridge does not penalise.
        device: where they are solved.
    """
    if places < inputs:
        return FewPlaces([], [], intercept, device)
    return NormalEquations.zeros(inputs, outputs, intercept, device)


@dataclass
class NormalEquations:
    """Sums over places, in float64: of x x^T (D + 1, D + 1) and x y^T (D + 1, O); the last input is always 1."""

    xx: Tensor
    xy: Tensor
    intercept: bool

    @classmethod
    def zeros(cls, inputs: int, outputs: int, intercept: bool, device: torch.device) -> "NormalEquations":
        """Equations without any place."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        return cls(zeros(inputs + 1, inputs + 1), zeros(inputs + 1, outputs), intercept)

    @property
    def places(self) -> int:
        """Number of places."""
        return int(self.xx[-1, -1])

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds places: x (N, D), y (N, O)."""
        x, y = x.to(self.xx), y.to(self.xx)
        x = torch.cat((x, x.new_ones(len(x), 1)), 1)  # (N, D + 1)
        for begin in range(0, x.shape[1], BLOCK):  # the sums are symmetric: half of them is enough
            end = min(begin + BLOCK, x.shape[1])
            part = x[:, begin:].T @ x[:, begin:end]
            self.xx[begin:, begin:end] += part
            self.xx[begin:end, end:] += part[end - begin :].T
        self.xy += x.T @ y

    def solve(self, ridge: float) -> Tensor:
        """Weights (D + 1, O), the constants last; ``ridge`` is relative to each input's own sum of squares."""
        xy, mean = self.xy[:-1], self.xx[:-1, -1] / max(self.places, 1)
        a = self.xx[:-1, :-1].clone()
        if self.intercept:  # around the mean: the constant is not shrunk
            a.addr_(mean, mean, alpha=-self.places)
            xy = xy - mean[:, None] * self.xy[-1]
        scale = a.diagonal().clamp_min(0).sqrt()
        used = _used(scale)
        if not used.all():
            a = a[used][:, used]
        weights = torch.zeros_like(self.xy)
        if used.any():
            s = scale[used, None]
            a.div_(s).div_(s.T).diagonal().add_(ridge)
            weights[:-1][used] = torch.cholesky_solve(xy[used] / s, torch.linalg.cholesky(a)) / s
        if self.intercept:
            weights[-1] = self.xy[-1] / max(self.places, 1) - mean @ weights[:-1]
        return weights


@dataclass
class FewPlaces:
    """The places themselves: chunks of x (N, D) and y (N, O)."""

    x: list[Tensor]
    y: list[Tensor]
    intercept: bool
    device: torch.device

    @property
    def places(self) -> int:
        """Number of places."""
        return sum(map(len, self.x))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds places: x (N, D), y (N, O)."""
        self.x.append(x)
        self.y.append(y)

    def solve(self, ridge: float) -> Tensor:
        """As of :class:`NormalEquations`: W = D^-1 X^T (X D^-1 X^T + ridge)^-1 Y, with D the sums of squares."""
        x, y = (torch.cat(chunks).to(self.device, torch.float64) for chunks in (self.x, self.y))
        weights = x.new_zeros(x.shape[1] + 1, y.shape[1])
        mean_x, mean_y = x.mean(0), y.mean(0)
        if self.intercept:
            x, y = x - mean_x, y - mean_y
        scale = x.square().sum(0).sqrt()
        used = _used(scale)
        if used.any():
            s = scale[used]
            x = x[:, used].div_(s)
            kernel = x @ x.T  # (N, N)
            kernel.diagonal().add_(ridge)
            weights[:-1][used] = x.T @ torch.cholesky_solve(y, torch.linalg.cholesky(kernel)) / s[:, None]
        if self.intercept:
            weights[-1] = mean_y - mean_x @ weights[:-1]
        return weights


Equations = NormalEquations | FewPlaces


def _used(scale: Tensor) -> Tensor:
    """Which inputs get a weight; constant ones get none."""
    return scale > 1e-6 * scale.max()


def solve_with_held_out(fit: Equations, held_out: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, float]:
    """Weights (D + 1, O) from all places, with the ridge that predicts the held-out ones best; and that ridge.

    Outputs count alike: errors are relative to how far each is spread. Ridges are tried from the smallest on, and no
    longer once one is clearly worse than another.

    Args:
        fit: equations of the other places; the held-out ones are added to them.
        held_out: chunks of inputs (N, D) and outputs (N, O); there may be none.
    """
    best = RIDGES[1]
    if held_out:
        x, y = (torch.cat(chunks) for chunks in zip(*held_out, strict=True))
        spread = y.var(0, correction=0).clamp_min(1e-12)
        lowest = math.inf
        for ridge in RIDGES:
            weights = fit.solve(ridge).to(x)
            score = float(((x @ weights[:-1] + weights[-1] - y).square().mean(0) / spread).mean())
            if score > CLEARLY_WORSE * lowest:
                break
            if score < lowest:
                best, lowest = ridge, score
        fit.add(x, y)
    return fit.solve(best), best


def fit_scores(x: Tensor, logits: Tensor, start: Tensor, sigmoid: bool) -> Tensor:
    """Weights (D + 1, O) of a segmentation layer whose probabilities are nearest to the teacher's.

    Equal logits are not needed: far from any border their size does not matter. The cross-entropy with the
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
        predicted = x @ weights[:-1] + weights[-1]
        if sigmoid:
            loss = F.binary_cross_entropy_with_logits(predicted, target)
        else:
            loss = F.cross_entropy(predicted, target)
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


def values_at(features: Tensor, places: Tensor) -> Tensor:
    """Values of features (B, C, \\*spatial) at flat indices of (B, \\*spatial): (N, C)."""
    b, *where = _coordinates(places, features, (features.shape[0], *features.shape[2:]))
    return features[(b, slice(None), *where)]


def under_kernel(conv: Any, features: Tensor, places: Tensor) -> Tensor:
    """Inputs under a convolution's kernel at places of its output.

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
