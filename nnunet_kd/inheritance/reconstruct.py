"""A student's weights as a closed-form reconstruction of a wider teacher, from patches alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from nnunet_kd.inheritance.channels import ChannelStatistics, choose_channels, taylor_importance
from nnunet_kd.inheritance.hooks import hooks
from nnunet_kd.inheritance.pairs import Layer, Pairing, is_transposed, pair_layers
from nnunet_kd.inheritance.regression import output_shape, sample_places, under_transposed, values_at
from nnunet_kd.inheritance.solve import solve

PLACES_OF_CHANNELS = 2000  # of each batch, for the covariance of channels
VOXELS_OF_BACKWARD_PASS = 2**18
FOCUS = 10  # weight of places in and near the foreground when places are sampled; elsewhere 1
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
    """Replaces the student's weights by those whose outputs are nearest to the teacher's, layer by layer.

    Args:
        student: one of nnU-Net's U-Nets, bare, on the device of the batches; its mode is kept.
        teacher: a U-Net of the same class that is nowhere narrower or shallower.
        batches: what both networks see; labels decide which channels and which places matter, nothing else.
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
        _choose(pairing, teacher, batches, loss, sigmoid, generator, bar)
        with torch.no_grad():
            places = _places(pairing, student, batches, sigmoid, generator)
            targets = _targets(pairing, teacher, batches, places, bar)
            for _ in solve(pairing, [b.images for b in batches], places, targets, sigmoid):
                bar.update()


@contextmanager
def _ready(network: Any) -> Iterator[None]:
    """A network in evaluation mode, with all outputs of deep supervision; both are restored."""
    mode, deep = network.training, network.decoder.deep_supervision
    network.eval()
    network.decoder.deep_supervision = True
    try:
        yield
    finally:
        network.train(mode)
        network.decoder.deep_supervision = deep


def _choose(
    pairing: Pairing,
    teacher: Any,
    batches: Sequence[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    sigmoid: bool,
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
            sources[module].add(taylor_importance(activation, gradient), values_at(activation, places))

        output.register_hook(add)

    with hooks(m.register_forward_hook(watch) for m in sources), torch.enable_grad():
        for batch in batches:
            images, reference = _crop(batch, teacher, sigmoid)
            loss(teacher(images.clone().requires_grad_())[0].float(), reference).backward()
            bar.update()
    teacher.zero_grad(set_to_none=True)
    for space in pairing.spaces:
        space.kept = choose_channels([sources[m] for m in space.sources], space.student).to(device)


def _crop(batch: Batch, network: Any, sigmoid: bool) -> tuple[Tensor, Tensor]:
    """A part of the patches around their foreground, small enough for a backward pass through a wide teacher."""
    strides = torch.tensor(network.encoder.strides).prod(0).tolist()
    size = list(batch.images.shape[2:])
    while len(batch.images) * math.prod(size) > VOXELS_OF_BACKWARD_PASS:
        axis = max(range(len(size)), key=lambda i: size[i] / strides[i])
        if size[axis] < 2 * strides[axis]:
            break
        size[axis] = size[axis] // 2 // strides[axis] * strides[axis]
    where = _foreground(batch.reference, sigmoid).sum((0, 1)).nonzero().float()
    middle = where.mean(0).tolist() if len(where) else [s / 2 for s in batch.images.shape[2:]]
    begins = [
        min(max(int(m - part / 2), 0), whole - part)
        for m, part, whole in zip(middle, size, batch.images.shape[2:], strict=True)
    ]
    window: Any = (..., *(slice(b, b + part) for b, part in zip(begins, size, strict=True)))
    return batch.images[window], batch.reference[window]


def _places(
    pairing: Pairing, student: nn.Module, batches: Sequence[Batch], sigmoid: bool, generator: torch.Generator
) -> dict[Layer, list[Tensor]]:
    """Places of every layer and batch: of a convolution's output, of a transposed one's input."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        shapes[module] = (len(x), *(x.shape[2:] if is_transposed(module) else output_shape(module, x)))

    with hooks(layer.conv.register_forward_pre_hook(note) for layer in pairing.layers):
        student(batches[0].images)
    result: dict[Layer, list[Tensor]] = {}
    for layer in pairing.layers:
        wanted = max(PLACES, PLACES_PER_INPUT * layer.conv.weight[0].numel())
        each = -(-wanted // len(batches))
        weights = (near_foreground(_foreground(b.reference, sigmoid), shapes[layer.conv][1:]) for b in batches)
        result[layer] = [sample_places(w, each, generator) for w in weights]
    return result


def _foreground(reference: Tensor, sigmoid: bool) -> Tensor:
    """Mask (B, 1, *spatial) of any region, or of any class but the background."""
    return (reference if sigmoid else reference[:, 1:]).amax(1, keepdim=True)


def near_foreground(foreground: Tensor, shape: Sequence[int]) -> Tensor:
    """Weights (B, *shape) of places: FOCUS in and around the foreground (B, 1, *spatial), 1 elsewhere."""
    two = len(shape) == 2
    grid = F.adaptive_max_pool2d if two else F.adaptive_max_pool3d
    spread = F.max_pool2d if two else F.max_pool3d
    near = spread(grid(foreground, tuple(shape)), 3, 1, 1)[:, 0]
    return (1 + (FOCUS - 1) * near).cpu()


def _targets(
    pairing: Pairing,
    teacher: nn.Module,
    batches: Sequence[Batch],
    places: dict[Layer, list[Tensor]],
    bar: tqdm,
) -> dict[Layer, list[Tensor]]:
    """Target of every layer at its places, (N, O) for each batch."""
    targets: dict[Layer, list[Tensor]] = {layer: [] for layer in pairing.layers}

    def record(layer: Layer, tensor: Tensor) -> None:
        tensor = tensor if layer.space is None else tensor[:, layer.space.kept]
        at_batch = places[layer][len(targets[layer])]
        transposed = is_transposed(layer.conv)
        target = under_transposed(layer.conv, tensor, at_batch) if transposed else values_at(tensor, at_batch)
        targets[layer].append(target)

    def hook(layer: Layer) -> Any:
        if layer.target_is_input:
            return layer.source.register_forward_pre_hook(lambda _, inputs: record(layer, inputs[0]))
        return layer.source.register_forward_hook(lambda _, __, output: record(layer, output))

    with hooks([hook(layer) for layer in pairing.layers]):
        for batch in batches:
            teacher(batch.images)
            bar.update()
    return targets
