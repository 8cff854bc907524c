"""Named intermediate features of any network, recorded by forward hooks.

Names: ``encoder.0`` (highest resolution) to ``encoder.N``, ``bottleneck`` (the same layer as the last of these) and
``decoder.0`` (lowest resolution, the order of computation) to ``decoder.M`` for networks that are built like nnU-Net's:
``encoder.stages`` and ``decoder.stages``. A network may name its features itself with an attribute ``feature_names``, a
mapping of such names to dotted module paths, as those of ``nnunet_kd.networks`` do. Any other layer of any network goes
by its dotted module path.

A feature is what the layer returned, ``(B, C, *spatial)``; a later layer that works in place would change it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_kd.losses.feature_distillation import FeaturePair
from nnunet_kd.utilities.errors import UserError

BOTTLENECK = "bottleneck"


def feature_names(network: nn.Module) -> dict[str, str]:
    """Names of a network's features -> dotted module paths, in the order of computation.

    Empty for a network that is neither built like nnU-Net's nor names its features itself.
    """
    own = getattr(network, "feature_names", None)
    if isinstance(own, Mapping):
        return dict(own)
    names: dict[str, str] = {}
    for part in ("encoder", "decoder"):
        stages = getattr(getattr(network, part, None), "stages", None)
        if not isinstance(stages, nn.Sequential | nn.ModuleList):
            return {}
        names |= {f"{part}.{i}": f"{part}.stages.{i}" for i in range(len(stages))}
    return names


def find_layer(network: nn.Module, name: str) -> nn.Module:
    """The layer behind a name or a dotted module path.

    Raises:
        UserError: lists the names that there are.
    """
    names = feature_names(network)
    if name == BOTTLENECK:
        path = next((p for n, p in reversed(names.items()) if n.startswith("encoder.")), name)
    else:
        path = names.get(name, name)
    try:
        return network.get_submodule(path)
    except AttributeError:
        known = ", ".join([*names, BOTTLENECK]) if names else "the dotted module paths of plan --list-taps"
        raise UserError(f"feature {name!r}: {type(network).__name__} has no such layer; there are {known}.") from None


@dataclass
class _Record:
    """Where the hooks put features; no reference to the network, so there is no cycle."""

    active: bool = False
    features: dict[str, Any] = field(default_factory=dict)


def _keep(record: _Record, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    if record.active:
        record.features[name] = output


class FeatureTaps:
    """Forward hooks on some layers of a network, which record only inside :meth:`recording`.

    Hooks must be set before ``torch.compile`` has traced the network for the first time; they are part of the graph and
    do not break it. The network may be wrapped by DDP and ``torch.compile`` afterwards or before.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]):
        """Sets the hooks.

        Args:
            network: the bare network.
            names: features to record, see the module's documentation; a name may come twice.

        Raises:
            UserError: for a name that the network does not have.
        """
        self.names = tuple(names)
        self._record = _Record()
        layers = {n: find_layer(network, n) for n in names}
        self._handles = [
            layer.register_forward_hook(partial(_keep, self._record, name)) for name, layer in layers.items()
        ]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the features of forward passes inside."""
        self._record.active = True
        try:
            yield
        finally:
            self._record.active = False

    def pop(self) -> list[Tensor]:
        """Hands out the recorded features, in the order of the names, and forgets them.

        Raises:
            UserError: when a layer was not run, or returned something else than one tensor.
        """
        features, self._record.features = self._record.features, {}
        for name in self.names:
            if not isinstance(features.get(name), Tensor):
                found = type(features[name]).__name__ if name in features else "nothing: it did not run"
                raise UserError(
                    f"feature {name!r}: the layer returned {found}, expected one tensor; name another layer."
                )
        return [features[n] for n in self.names]

    def remove(self) -> None:
        """Takes the hooks off the network."""
        for handle in self._handles:
            handle.remove()


def measure_features(
    network: nn.Module, input_shape: Sequence[int], names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes (C, *spatial) of features, by one forward pass over zeros on the network's device (``meta`` is enough).

    Args:
        network: the bare network; its mode (training or not) is restored.
        input_shape: (C, *spatial).
        names: features to measure.

    Raises:
        UserError: when the network cannot take the input or a feature is not a tensor (B, C, *spatial).
    """
    parameter = next(network.parameters())
    taps, training = FeatureTaps(network, names), network.training
    try:
        with torch.no_grad(), taps.recording():
            network.eval()(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
        features = taps.pop()
    except (RuntimeError, ValueError, AssertionError) as err:
        raise UserError(
            f"{type(network).__name__}: cannot take a patch of {tuple(input_shape[1:])} voxels with {input_shape[0]} "
            f"channels ({str(err).splitlines()[0] if str(err) else type(err).__name__})."
        ) from err
    finally:
        taps.remove()
        network.train(training)
    for name, feature in zip(names, features, strict=True):
        if feature.ndim != len(input_shape) + 1:
            raise UserError(f"feature {name!r}: has shape {tuple(feature.shape)}, expected (B, C, *spatial).")
    return {n: tuple(f.shape[1:]) for n, f in zip(names, features, strict=True)}


def measure_layers(network: nn.Module, input_shape: Sequence[int], depth: int = 3) -> dict[str, tuple[int, ...]]:
    """Shapes (C, *spatial) of all layers that return such a tensor, by dotted module path, as :func:`measure_features`.

    Args:
        network: the bare network.
        input_shape: (C, *spatial).
        depth: parts of a path at most.
    """
    found: dict[str, tuple[int, ...]] = {}

    def note(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == len(input_shape) + 1:
            found[path] = tuple(output.shape[1:])

    layers = [(p, m) for p, m in network.named_modules() if p and p.count(".") < depth]
    handles = [m.register_forward_hook(partial(note, p)) for p, m in layers]
    try:
        measure_features(network, input_shape, [])
    finally:
        for handle in handles:
            handle.remove()
    return found


def choose_pairs(
    student: Mapping[str, tuple[int, ...]], teacher: Mapping[str, tuple[int, ...]], number: int
) -> tuple[FeaturePair, ...]:
    """Pairs of layers of equal resolution: the first, the last, and what lies evenly between them.

    Source: Qin et al. 2021, Section IV-D (first and last pair of the same size), III-D (two to four pairs).

    Args:
        student: feature -> (C, *spatial), in the order of computation.
        teacher: the same of the teacher, for the same input.
        number: pairs to choose; all there are where there are fewer.

    Raises:
        UserError: when no encoder or decoder feature of the two has the same size.
    """
    free, pairs = dict(teacher), []
    for mine, shape in student.items():
        part = mine.partition(".")[0]
        match = next((t for t, s in free.items() if t.partition(".")[0] == part and s[1:] == shape[1:]), None)
        if match is not None:
            pairs.append(FeaturePair(mine, match))
            del free[match]
    if not pairs:
        raise UserError(
            "kd.features.pairs: no two features of student and teacher have the same size; name pairs of layers "
            "(nnUNetv2_kd plan --list-taps lists them)."
        )
    last = len(pairs) - 1
    chosen = sorted({round(i * last / max(1, number - 1)) for i in range(number)})
    return tuple(pairs[i] for i in chosen)
