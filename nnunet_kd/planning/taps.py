"""What ``nnUNetv2_kd plan --list-taps`` prints: features of student and teachers, and the pairs of layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_kd.losses.feature_distillation import FeatureSettings
from nnunet_kd.planning.draft import Draft
from nnunet_kd.planning.network import PlannedModel
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


def list_taps(network: str, model: PlannedModel, patch: Sequence[int], named: Sequence[str] = ()) -> TapList:
    """Features of the network of a model, for a patch; on the meta device where the network allows it.

    Args:
        network: name in the list.
        model: builds the network.
        patch: spatial size of the input; the student's patch for teachers too.
        named: further features, which the user has named.

    Raises:
        UserError: when the network cannot take the patch, or has no feature of that name.
    """
    shape = (model.channels, *patch)
    try:
        return _measure(network, model.build("meta"), shape, named)
    except (NotImplementedError, UserError):  # a network that needs values, not only shapes
        return _measure(network, model.build(), shape, named)


def describe_taps(draft: Draft, model: PlannedModel) -> str:
    """Features of the student and of each teacher, for the student's patch, and the pairs of layers.

    Args:
        draft: names teachers and pairs.
        model: the student.

    Raises:
        UserError: as :func:`list_taps`.
    """
    patch, features = model.patch, draft.config.features
    mine, theirs = [p.student for p in features.pairs], [p.teacher for p in features.pairs]
    student = list_taps(f"{model.plans.plans_name} ({draft.config.role})", model, patch, mine)
    lines = [f"{model.configuration}, patch {' x '.join(map(str, patch))}", str(student)]
    for m in draft.teachers(model.configuration):
        teacher = list_taps(m.folder.name, PlannedModel.of(m), patch, theirs)
        lines += [str(teacher), describe_pairs(student, teacher, features)]
    return "\n".join(lines)


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
