"""Solves a student layer by layer, each on the outputs of the layers that are solved already."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_kd.inheritance.hooks import hooks
from nnunet_kd.inheritance.pairs import Layer, Pairing, Segment, is_transposed
from nnunet_kd.inheritance.regression import equations, fit_scores, solve_with_held_out, under_kernel, values_at

HELD_OUT = 4  # every fourth batch chooses the ridge


def solve(
    pairing: Pairing,
    images: Sequence[Tensor],
    places: dict[Layer, list[Tensor]],
    targets: dict[Layer, list[Tensor]],
    sigmoid: bool,
) -> Iterator[Layer]:
    """Solves all layers in the order of the forward pass; yields each when it is done.

    Args:
        pairing: the layers.
        images: batches (B, C, *spatial).
        places: of every layer and batch, flat indices.
        targets: of every layer and batch, (N, O); emptied on the way.
        sigmoid: the networks' outputs are independent regions.
    """
    outputs: dict[int, list[Tensor]] = {-1: list(images)}
    last_use = {i: n for n, segment in enumerate(pairing.segments) for i in segment.inputs}
    for n, segment in enumerate(pairing.segments):
        inputs = [[outputs[i][b] for i in segment.inputs] for b in range(len(images))]
        for layer in segment.layers:
            _solve_layer(layer, segment, inputs, places[layer], targets.pop(layer), sigmoid)
            yield layer
        if n in last_use:
            outputs[n] = [segment.run(*x) for x in inputs]
        for i in [i for i in outputs if last_use.get(i, n) <= n]:
            del outputs[i]


def _solve_layer(
    layer: Layer,
    segment: Segment,
    inputs: Sequence[Sequence[Tensor]],
    places: Sequence[Tensor],
    targets: Sequence[Tensor],
    sigmoid: bool,
) -> None:
    conv = layer.conv
    kernel = conv.weight[0, 0].numel()
    sizes = (len(conv.weight), conv.weight.shape[1] * kernel)  # of a transposed convolution: C, O * kernel
    if not is_transposed(conv):
        sizes = (sizes[1], sizes[0])
    device = conv.weight.device if conv.weight.device.type != "mps" else torch.device("cpu")  # which has no float64
    intercept = conv.bias is not None or layer.norm is not None
    fit = equations(*sizes, sum(map(len, places)), intercept, device)
    features, inputs_at_places, targets_at_places, held_out = [], [], [], []
    for b, (feature, shortcut) in enumerate(_observe(layer, segment, inputs)):
        x = values_at(feature, places[b]) if is_transposed(conv) else under_kernel(conv, feature, places[b])
        y = targets[b] if shortcut is None else targets[b] - values_at(shortcut, places[b])
        if b % HELD_OUT == HELD_OUT - 1:
            held_out.append((x, y))
        else:
            fit.add(x, y)
        if layer.is_scores:
            inputs_at_places.append(x)
        if layer.fits_norm:
            features.append(feature)
            targets_at_places.append(y)
    weights, _ = solve_with_held_out(fit, held_out)
    if layer.is_scores:
        weights = fit_scores(torch.cat(inputs_at_places), torch.cat(list(targets)), weights, sigmoid)
    _assign(layer, weights)
    if layer.fits_norm:
        _fit_norm(layer, features, targets_at_places, places)


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass at the layer that is being solved."""


def _observe(
    layer: Layer, segment: Segment, inputs: Sequence[Sequence[Tensor]]
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """For every batch what goes into the layer, and what its block's shortcut adds to what comes out."""
    recorded: dict[str, Tensor] = {}

    def stop(_: nn.Module, x: tuple[Tensor, ...]) -> None:
        recorded["input"] = x[0]
        raise _Reached

    def note(_: nn.Module, x: tuple[Tensor, ...]) -> None:
        recorded["block"] = x[0]

    handles = [layer.conv.register_forward_pre_hook(stop)]
    if layer.block is not None:
        handles.append(layer.block.register_forward_pre_hook(note))
    with hooks(handles):
        for x in inputs:
            with suppress(_Reached):
                segment.run(*x)
            yield recorded["input"], None if layer.block is None else layer.block.skip(recorded["block"])


def _assign(layer: Layer, weights: Tensor) -> None:
    """Puts solved weights (D + 1, O) into the student's layer, and the teacher's normalisation behind it."""
    conv = layer.conv
    values, constant = weights[:-1], weights[-1]
    if is_transposed(conv):  # (C, O * kernel) -> (C, O, *kernel)
        conv.weight.copy_(values.reshape(conv.weight.shape))
        constant = constant.reshape(conv.out_channels, -1).mean(1)
    else:  # (C * kernel, O) -> (O, C, *kernel)
        conv.weight.copy_(values.T.reshape(conv.weight.shape))
    if conv.bias is not None:
        conv.bias.copy_(constant)
    if layer.norm is None or layer.teacher_norm is None:
        return
    assert layer.space is not None
    kept = layer.space.kept
    state = {k: v if v.ndim == 0 else v[kept] for k, v in layer.teacher_norm.state_dict().items()}
    layer.norm.load_state_dict(state)
    if conv.bias is None and "running_mean" in state:
        layer.norm.running_mean.sub_(constant)  # the student's values lack the constant


def _fit_norm(layer: Layer, features: Sequence[Tensor], targets: Sequence[Tensor], places: Sequence[Tensor]) -> None:
    """Scale and shift with which the student's normalised values are nearest to the target, for each channel."""
    norm: Any = layer.norm
    if hasattr(norm, "running_mean") and norm.running_mean is not None:
        values = torch.cat([layer.conv(x).transpose(0, 1).flatten(1) for x in features], 1)
        norm.running_mean.copy_(values.mean(1))
        norm.running_var.copy_(values.var(1))
    if norm.weight is None:
        return
    norm.weight.fill_(1)
    norm.bias.zero_()
    u = torch.cat([values_at(norm(layer.conv(x)), p) for x, p in zip(features, places, strict=True)])
    y = torch.cat(list(targets))
    mean_u, mean_y = u.mean(0), y.mean(0)
    slope = ((u - mean_u) * (y - mean_y)).sum(0) / (u - mean_u).square().sum(0).clamp_min(1e-12)
    norm.weight.copy_(slope)
    norm.bias.copy_(mean_y - slope * mean_u)
