"""A student's weights as a closed-form reconstruction of a wider teacher, from patches alone."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from nnunet_kd.inheritance.channels import ChannelStatistics, choose_channels, taylor_importance
from nnunet_kd.inheritance.pairs import Layer, Pairing, Segment, pair_layers
from nnunet_kd.inheritance.regression import (
    NormalEquations,
    at,
    fit_scores,
    output_shape,
    sample_places,
    solve_with_held_out,
    under_kernel,
    under_transposed,
)

HELD_OUT = 4  # every fourth batch chooses the ridge
PLACES_OF_CHANNELS = 2000  # of each batch, for the covariance of channels
VOXELS_OF_BACKWARD_PASS = 2**18
FOCUS = 10  # how much rather places near foreground are sampled
PLACES = 40_000  # of all batches, for each layer
PLACES_PER_INPUT = 4


@dataclass(frozen=True)
class Batch:
    """Patches (B, C, *spatial) and one-hot reference (B, heads, *spatial), all 0 where nothing is known."""

    images: Tensor
    reference: Tensor


def reconstruct(
    student: Any,
    teacher: Any,
    batches: Sequence[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    sigmoid: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Replaces the student's weights by those that give what the teacher gives.

    Args:
        student: one of nnU-Net's U-Nets, bare, on the device of the batches; its mode is kept.
        teacher: a U-Net of the same class that is nowhere narrower or shallower.
        batches: what both networks see; labels decide which channels matter, nothing else.
        loss: of logits and reference, for the importance of channels.
        sigmoid: the networks' outputs are independent regions instead of classes.
        seed: of the places that are sampled.
        progress: show a bar.

    Raises:
        CannotInheritError: when the student cannot be such a reconstruction.
    """
    pairing = pair_layers(student, teacher)
    generator = torch.Generator().manual_seed(seed)
    steps = 2 * len(batches) + len(pairing.layers)
    with _ready(student), _ready(teacher), tqdm(total=steps, disable=not progress, desc="inherit") as bar:
        _choose(pairing, teacher, batches, loss, generator, bar)
        with torch.no_grad():
            places = _places(pairing, student, batches, generator)
            targets = _targets(pairing, teacher, batches, places, bar)
            _solve(pairing, [b.images for b in batches], places, targets, sigmoid, bar)


@contextmanager
def _ready(network: Any) -> Iterator[None]:
    """In evaluation mode, with every output."""
    mode, deep = network.training, network.decoder.deep_supervision
    network.eval()
    network.decoder.deep_supervision = True
    try:
        yield
    finally:
        network.train(mode)
        network.decoder.deep_supervision = deep


@contextmanager
def _hooks(handles: Iterable[Any]) -> Iterator[None]:
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _choose(
    pairing: Pairing,
    teacher: Any,
    batches: Sequence[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    generator: torch.Generator,
    bar: tqdm,
) -> None:
    """Sets the kept channels of every space."""
    device = batches[0].images.device
    sources = {m: ChannelStatistics.zeros(s.teacher, device) for s in pairing.spaces for m in s.sources}

    def watch(module: nn.Module, _: Any, output: Tensor) -> None:
        activation = output.detach()
        places = sample_places(torch.ones(len(output), *output.shape[2:]), PLACES_OF_CHANNELS, generator)

        def add(gradient: Tensor) -> None:
            sources[module].add(taylor_importance(activation, gradient), at(activation, places))

        output.register_hook(add)

    with _hooks(m.register_forward_hook(watch) for m in sources), torch.enable_grad():
        for batch in batches:
            images, reference = _crop(batch, teacher)
            loss(teacher(images.clone().requires_grad_())[0].float(), reference).backward()
            bar.update()
    teacher.zero_grad(set_to_none=True)
    for space in pairing.spaces:
        space.kept = choose_channels([sources[m] for m in space.sources], space.student).to(device)


def _crop(batch: Batch, network: Any) -> tuple[Tensor, Tensor]:
    """A part of the patches around their foreground, small enough for a backward pass through a wide teacher."""
    strides = torch.tensor(network.encoder.strides).prod(0).tolist()
    size = list(batch.images.shape[2:])
    while len(batch.images) * math.prod(size) > VOXELS_OF_BACKWARD_PASS:
        axis = max(range(len(size)), key=lambda i: size[i] / strides[i])
        if size[axis] < 2 * strides[axis]:
            break
        size[axis] = size[axis] // 2 // strides[axis] * strides[axis]
    foreground = batch.reference[:, -1:] if batch.reference.shape[1] == 1 else batch.reference[:, 1:]
    where = foreground.sum((0, 1)).nonzero().float()
    middle = where.mean(0).tolist() if len(where) else [s / 2 for s in batch.images.shape[2:]]
    begins = [
        min(max(int(m - part / 2), 0), whole - part)
        for m, part, whole in zip(middle, size, batch.images.shape[2:], strict=True)
    ]
    window: Any = (..., *(slice(b, b + part) for b, part in zip(begins, size, strict=True)))
    return batch.images[window], batch.reference[window]


def _places(
    pairing: Pairing, student: nn.Module, batches: Sequence[Batch], generator: torch.Generator
) -> dict[Layer, list[Tensor]]:
    """Places of every layer and batch: of a convolution's output, of a transposed one's input."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        shapes[module] = (len(x), *(x.shape[2:] if _transposed(module) else output_shape(module, x)))

    with _hooks(layer.conv.register_forward_pre_hook(note) for layer in pairing.layers):
        student(batches[0].images)
    result: dict[Layer, list[Tensor]] = {}
    for layer in pairing.layers:
        wanted = max(PLACES, PLACES_PER_INPUT * layer.conv.weight[0].numel())
        each = -(-wanted // len(batches))
        weights = (_near_foreground(b.reference, shapes[layer.conv][1:]) for b in batches)
        result[layer] = [sample_places(w, each, generator) for w in weights]
    return result


def _near_foreground(reference: Tensor, shape: Sequence[int]) -> Tensor:
    """Weights (B, *shape) of places: FOCUS in and around the foreground, 1 elsewhere."""
    foreground = reference if reference.shape[1] == 1 else reference[:, 1:]
    two = len(shape) == 2
    grid = F.adaptive_max_pool2d if two else F.adaptive_max_pool3d
    spread = F.max_pool2d if two else F.max_pool3d
    near = spread(grid(foreground.amax(1, keepdim=True), tuple(shape)), 3, 1, 1)[:, 0]
    return (1 + (FOCUS - 1) * near).cpu()


def _targets(
    pairing: Pairing,
    teacher: nn.Module,
    batches: Sequence[Batch],
    places: dict[Layer, list[Tensor]],
    bar: tqdm,
) -> dict[Layer, list[Tensor]]:
    """What every layer should give, (N, O) for each batch."""
    targets: dict[Layer, list[Tensor]] = {layer: [] for layer in pairing.layers}

    def record(layer: Layer, tensor: Tensor) -> None:
        tensor = tensor if layer.space is None else tensor[:, layer.space.kept]
        at_batch = places[layer][len(targets[layer])]
        gather = under_transposed(layer.conv, tensor, at_batch) if _transposed(layer.conv) else at(tensor, at_batch)
        targets[layer].append(gather)

    def hook(layer: Layer) -> Any:
        if layer.target_is_input:
            return layer.source.register_forward_pre_hook(lambda _, inputs: record(layer, inputs[0]))
        return layer.source.register_forward_hook(lambda _, __, output: record(layer, output))

    with _hooks([hook(layer) for layer in pairing.layers]):
        for batch in batches:
            teacher(batch.images)
            bar.update()
    return targets


def _solve(
    pairing: Pairing,
    images: Sequence[Tensor],
    places: dict[Layer, list[Tensor]],
    targets: dict[Layer, list[Tensor]],
    sigmoid: bool,
    bar: tqdm,
) -> None:
    """Solves layer by layer, each on what the student's layers before it give already."""
    outputs: dict[int, list[Tensor]] = {-1: list(images)}
    last_use = {i: n for n, segment in enumerate(pairing.segments) for i in segment.inputs}
    for n, segment in enumerate(pairing.segments):
        inputs = [[outputs[i][b] for i in segment.inputs] for b in range(len(images))]
        for layer in segment.layers:
            _solve_layer(layer, segment, inputs, places[layer], targets.pop(layer), sigmoid)
            bar.update()
        if n in last_use:
            outputs[n] = [segment.run(*x) for x in inputs]
        for i in [i for i in outputs if last_use.get(i, n) <= n]:
            del outputs[i]


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass at the layer that is being solved."""


def _solve_layer(
    layer: Layer,
    segment: Segment,
    inputs: Sequence[Sequence[Tensor]],
    places: Sequence[Tensor],
    targets: Sequence[Tensor],
    sigmoid: bool,
) -> None:
    conv: Any = layer.conv
    intercept = conv.bias is not None or layer.norm is not None
    seen: dict[str, Tensor] = {}

    def stop(_: nn.Module, x: tuple[Tensor, ...]) -> None:
        seen["input"] = x[0]
        raise _Reached

    def note_block(_: nn.Module, x: tuple[Tensor, ...]) -> None:
        seen["block"] = x[0]

    equations: list[NormalEquations] = []
    handles = [conv.register_forward_pre_hook(stop)]
    if layer.block is not None:
        handles.append(layer.block.register_forward_pre_hook(note_block))
    rows, seen_by_scores = [], []
    with _hooks(handles):
        for b, x in enumerate(inputs):
            with suppress(_Reached):
                segment.run(*x)
            feature = seen["input"]
            y = targets[b]
            if layer.block is not None:
                y = y - at(layer.block.skip(seen["block"]), places[b])  # the sum, less what the shortcut adds
            columns = at(feature, places[b]) if _transposed(conv) else under_kernel(conv, feature, places[b])
            if not equations:
                device = torch.device("cpu") if y.device.type == "mps" else y.device  # which knows no float64
                equations = [NormalEquations.zeros(columns.shape[1], y.shape[1], intercept, device) for _ in range(2)]
            equations[b % HELD_OUT == HELD_OUT - 1].add(columns, y)
            if layer.space is None:
                seen_by_scores.append(columns)
            if layer.norm is not None and layer.teacher_norm is None:
                rows.append((feature, y))
    weights, _ = solve_with_held_out(*equations)
    if layer.space is None:
        weights = fit_scores(torch.cat(seen_by_scores), torch.cat(list(targets)), weights, sigmoid)
    _assign(layer, weights)
    if rows:
        _fit_norm(layer, rows, places)


def _assign(layer: Layer, weights: Tensor) -> None:
    """Puts solved weights (D + 1, O) into the student's layer, and the teacher's normalisation behind it."""
    conv: Any = layer.conv
    values, constant = weights[:-1], weights[-1]
    if _transposed(conv):  # (C, O * kernel) -> (C, O, *kernel)
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


def _fit_norm(layer: Layer, rows: Sequence[tuple[Tensor, Tensor]], places: Sequence[Tensor]) -> None:
    """Scale and shift with which the student's normalised values are nearest to the target, for each channel."""
    norm: Any = layer.norm
    if hasattr(norm, "running_mean") and norm.running_mean is not None:
        values = torch.cat([layer.conv(x).transpose(0, 1).flatten(1) for x, _ in rows], 1)
        norm.running_mean.copy_(values.mean(1))
        norm.running_var.copy_(values.var(1))
    if norm.weight is None:
        return
    norm.weight.fill_(1)
    norm.bias.zero_()
    u = torch.cat([at(norm(layer.conv(x)), p) for (x, _), p in zip(rows, places, strict=True)]).double()
    y = torch.cat([t for _, t in rows]).double()
    mean_u, mean_y = u.mean(0), y.mean(0)
    slope = ((u - mean_u) * (y - mean_y)).sum(0) / (u - mean_u).square().sum(0).clamp_min(1e-12)
    norm.weight.copy_(slope)
    norm.bias.copy_(mean_y - slope * mean_u)


def _transposed(module: Any) -> bool:
    return isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
