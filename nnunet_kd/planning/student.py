"""Student architectures as scaled copies of a plans file's ``architecture`` dictionary; pure functions."""

import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from nnunet_kd.errors import UserError

# class -> its argument for the depth of an encoder stage
BLOCKS_ARGUMENT = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
CHANNEL_MULTIPLE = 8
FORMS = "same, width=0.25, depth=-1, params=500k, or several of the last three joined by commas"


@dataclass(frozen=True)
class StudentSpec:
    """How a student differs from the network of the base plans.

    Attributes:
        width: factor on the channels of every stage.
        removed_stages: lowest-resolution stages that are left out.
        max_parameters: budget that replaces ``width``; None for no budget.
    """

    width: float = 1.0
    removed_stages: int = 0
    max_parameters: int | None = None


def parse_student(text: str) -> StudentSpec:
    """Reads ``same``, ``width=F``, ``depth=-N``, ``params=N[k|M]``, or several joined by commas.

    Raises:
        UserError: for anything else, and for ``width`` beside ``params``.
    """
    if text.strip() == "same":
        return StudentSpec()
    values: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = (p.strip() for p in part.partition("="))
        patterns = {"width": r"\d*\.?\d+", "depth": r"-\d+", "params": r"\d*\.?\d+[kKmM]?"}
        if key in values or not re.fullmatch(patterns.get(key, "(?!)"), value):
            raise UserError(f"--student {text}: cannot read {part.strip()!r}; expected {FORMS}.")
        values[key] = value
    if {"width", "params"} <= set(values):
        raise UserError(f"--student {text}: params chooses the width itself; give one of the two.")
    number = values.get("params", "")
    scale = {"k": 1e3, "m": 1e6}.get(number[-1:].lower(), 1)
    spec = StudentSpec(
        width=float(values.get("width", 1)),
        removed_stages=-int(values.get("depth", 0)),
        max_parameters=round(float(number.rstrip("kKmM")) * scale) if number else None,
    )
    if spec.width <= 0:
        raise UserError(f"--student {text}: width must be greater than 0.")
    return spec


def student_architecture(
    architecture: Mapping[str, Any], spec: StudentSpec, count: Callable[[dict[str, Any]], int], where: str = "plans"
) -> dict[str, Any]:
    """Architecture of the student: first fewer stages, then fewer channels.

    Args:
        architecture: ``architecture`` of a configuration: class name, arguments, arguments that are imported.
        spec: what to change; with nothing to change, any class is accepted.
        count: parameters of the network that an architecture describes; called for a budget only.
        where: file and configuration, for messages.

    Raises:
        UserError: for a class that cannot be scaled, too few stages, or a budget that nothing fits into.
    """
    if spec == StudentSpec():
        return deepcopy(dict(architecture))
    module, _, name = architecture["network_class_name"].rpartition(".")
    if name not in BLOCKS_ARGUMENT or not module.startswith("dynamic_network_architectures."):
        raise UserError(
            f"{where}: {architecture['network_class_name']} cannot be scaled, only {' and '.join(BLOCKS_ARGUMENT)} "
            "can; use --student same."
        )
    smaller = remove_stages(architecture, spec.removed_stages, where)
    if spec.max_parameters is not None:
        return fit_to_budget(smaller, spec.max_parameters, count, where)
    return scale_width(smaller, spec.width)


def remove_stages(architecture: Mapping[str, Any], number: int, where: str = "plans") -> dict[str, Any]:
    """Leaves out the ``number`` lowest-resolution stages; at least two stay.

    Raises:
        UserError: when fewer than two stages would stay.
    """
    result = deepcopy(dict(architecture))
    arguments = result["arch_kwargs"]
    stages = arguments["n_stages"]
    if stages - number < 2:
        raise UserError(f"{where}: has {stages} stages, depth=-{number} would leave fewer than 2.")
    arguments["n_stages"] = stages - number
    for key in ("features_per_stage", "kernel_sizes", "strides", "bottleneck_channels", *BLOCKS_ARGUMENT.values()):
        if isinstance(arguments.get(key), list | tuple):
            arguments[key] = arguments[key][: stages - number]
    if isinstance(arguments["n_conv_per_stage_decoder"], list | tuple):  # starts at the lowest resolution
        arguments["n_conv_per_stage_decoder"] = arguments["n_conv_per_stage_decoder"][number:]
    return result


def scale_width(architecture: Mapping[str, Any], width: float) -> dict[str, Any]:
    """Multiplies the channels of every stage by ``width``, in multiples of 8, at least 8.

    A width of at most 1 never widens a stage.
    """

    def scale(channels: Any) -> Any:
        if isinstance(channels, list | tuple):
            return [scale(c) for c in channels]
        if channels is None or width == 1:
            return channels
        rounded = max(1, math.floor(channels * width / CHANNEL_MULTIPLE + 0.5)) * CHANNEL_MULTIPLE
        return min(rounded, channels) if width < 1 else rounded

    result = deepcopy(dict(architecture))
    for key in ("features_per_stage", "bottleneck_channels", "stem_channels"):
        if key in result["arch_kwargs"]:
            result["arch_kwargs"][key] = scale(result["arch_kwargs"][key])
    return result


def fit_to_budget(
    architecture: Mapping[str, Any], budget: int, count: Callable[[dict[str, Any]], int], where: str = "plans"
) -> dict[str, Any]:
    """The widest version with at most ``budget`` parameters, never wider than the architecture itself.

    Raises:
        UserError: when even the narrowest has more, with its number.
    """
    features, stages = architecture["arch_kwargs"]["features_per_stage"], architecture["arch_kwargs"]["n_stages"]
    features = features if isinstance(features, list | tuple) else [features]
    steps = (k * CHANNEL_MULTIPLE / f for f in features for k in range(1, f // CHANNEL_MULTIPLE + 1))
    widths = sorted({1.0, *steps})
    smallest = count(scale_width(architecture, widths[0]))
    if smallest > budget:
        raise UserError(
            f"{where}: params={budget} is too small, the narrowest network with {stages} stages has {smallest} "
            "parameters; ask for more, or remove stages with depth=-1."
        )
    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if count(scale_width(architecture, widths[middle])) <= budget:
            low = middle
        else:
            high = middle - 1
    return scale_width(architecture, widths[low])
