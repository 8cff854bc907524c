"""What ``nnUNetv2_kd plan --list-taps`` prints: features of student and teachers, and the pairs of layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.losses.feature_distillation import FeatureSettings
from nnunet_kd.planning.cost import build_for_planning
from nnunet_kd.teachers.feature_taps import choose_pairs, feature_names, measure_features, measure_layers
from nnunet_kd.utilities.errors import UserError

_HEADER = ("feature", "channels", "size", "layer")
NO_NAMES = "(features of this network have no names; use the paths of its layers)"


@dataclass(frozen=True)
class TapList:
    """FeatureSettings of one network for one patch.

    Attributes:
        network: name in the list.
        shapes: feature -> (C, *spatial), in the order of computation.
        layers: feature -> dotted module path; empty for a network whose features have no names.
    """

    network: str
    shapes: Mapping[str, tuple[int, ...]]
    layers: Mapping[str, str]

    def __str__(self) -> str:
        rows: list[Sequence[str]] = [_HEADER]
        for name, shape in self.shapes.items():
            size = " x ".join(map(str, shape[1:]))
            rows.append((name, str(shape[0]), size, self.layers.get(name, name)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        title = self.network if self.layers else f"{self.network} {NO_NAMES}"
        return "\n".join([title, *(f"  {line}" for line in lines)])


def list_taps(
    network: str,
    plans_manager: PlansManager,
    configuration: str,
    dataset_json: dict[str, Any],
    trainer: str,
    patch: Sequence[int],
    named: Sequence[str] = (),
) -> TapList:
    """FeatureSettings of the network that plans describe, for a patch; on the meta device where the network allows it.

    Args:
        network: name in the list.
        plans_manager: plans that describe the network.
        configuration: configuration of these plans.
        dataset_json: gives input channels and classes.
        trainer: trainer that builds the network.
        patch: spatial size of the input; the student's patch for teachers too.
        named: further features, which the user has named.

    Raises:
        UserError: when the network cannot take the patch, or has no feature of that name.
    """
    inputs = determine_num_input_channels(plans_manager, plans_manager.get_configuration(configuration), dataset_json)
    shape = (inputs, *patch)
    plans = (plans_manager, configuration, dataset_json, trainer)
    try:
        return _measure(network, build_for_planning(*plans, "meta"), shape, named)
    except (NotImplementedError, UserError):  # a network that needs values, not only shapes
        return _measure(network, build_for_planning(*plans, "cpu"), shape, named)


def _measure(name: str, network: Any, shape: Sequence[int], named: Sequence[str]) -> TapList:
    layers = feature_names(network)
    shapes = measure_features(network, shape, [*layers, *named])
    return TapList(name, shapes if layers else measure_layers(network, shape) | shapes, layers)


def describe_pairs(student: TapList, teacher: TapList, features: FeatureSettings) -> str:
    """The pairs of layers that a training would use, or why it needs them to be named."""
    try:
        pairs = features.pairs or choose_pairs(student.shapes, teacher.shapes, features.number_of_pairs)
    except UserError as error:
        return str(error)
    return f"pairs with {teacher.network}: " + ", ".join(f"{p.student} <- {p.teacher}" for p in pairs)
