"""Fewer stages, blocks and channels in a plans file's ``architecture`` dictionary; pure functions."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

from nnunet_kd.utilities.errors import UserError

SCALABLE = (PlainConvUNet, ResidualEncoderUNet)  # nnU-Net's own
BLOCKS = ("n_conv_per_stage", "n_blocks_per_stage")  # arguments for the depth of an encoder stage
CHANNEL_MULTIPLE = 8


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
    for key in ("features_per_stage", "kernel_sizes", "strides", "bottleneck_channels", *BLOCKS):
        if isinstance(arguments.get(key), list | tuple):
            arguments[key] = arguments[key][: stages - number]
    if isinstance(arguments.get("n_conv_per_stage_decoder"), list | tuple):  # starts at the lowest resolution
        arguments["n_conv_per_stage_decoder"] = arguments["n_conv_per_stage_decoder"][number:]
    return result


def scale_blocks(
    architecture: Mapping[str, Any], factor: float, decoder_convolutions: int | None = None
) -> dict[str, Any]:
    """Multiplies the convolutions or blocks of every encoder stage, at least 1; sets those of the decoder's levels."""

    def scale(number: Any) -> Any:
        if isinstance(number, list | tuple):
            return [scale(n) for n in number]
        return max(1, math.floor(number * factor + 0.5)) if number else number

    result = deepcopy(dict(architecture))
    arguments = result["arch_kwargs"]
    for key in BLOCKS:
        if key in arguments:
            arguments[key] = scale(arguments[key])
    if decoder_convolutions is not None:
        arguments["n_conv_per_stage_decoder"] = [decoder_convolutions] * (arguments["n_stages"] - 1)
    return result


def scale_width(architecture: Mapping[str, Any], width: float) -> dict[str, Any]:
    """Multiplies the channels of every stage by ``width``, in multiples of 8, at least 8.

    A width of at most 1 never widens a stage, and 0, a stage without features, stays.
    """

    def scale(channels: Any) -> Any:
        if isinstance(channels, list | tuple):
            return [scale(c) for c in channels]
        if not channels or width == 1:
            return channels
        rounded = max(1, math.floor(channels * width / CHANNEL_MULTIPLE + 0.5)) * CHANNEL_MULTIPLE
        return min(rounded, channels) if width < 1 else rounded

    result = deepcopy(dict(architecture))
    for key in ("features_per_stage", "bottleneck_channels", "stem_channels"):
        if key in result["arch_kwargs"]:
            result["arch_kwargs"][key] = scale(result["arch_kwargs"][key])
    return result


def widths(architecture: Mapping[str, Any]) -> list[float]:
    """All factors up to 1 that give different widths, ascending."""
    features = architecture["arch_kwargs"]["features_per_stage"]
    features = features if isinstance(features, list | tuple) else [features]
    return sorted({1.0, *(k * CHANNEL_MULTIPLE / f for f in features for k in range(1, f // CHANNEL_MULTIPLE + 1))})


def widest(factors: Sequence[float], fits: Callable[[float], bool]) -> float | None:
    """The largest of ascending factors that fits, by bisection; None when the first does not."""
    if not fits(factors[0]):
        return None
    low, high = 0, len(factors) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if fits(factors[middle]):
            low = middle
        else:
            high = middle - 1
    return factors[low]


def fit_to_budget(
    architecture: Mapping[str, Any], budget: int, count: Callable[[dict[str, Any]], int], where: str = "plans"
) -> dict[str, Any]:
    """The widest version with at most ``budget`` parameters, never wider than the architecture itself.

    Raises:
        UserError: when even the narrowest has more, with its number.
    """
    factors = widths(architecture)
    width = widest(factors, lambda w: count(scale_width(architecture, w)) <= budget)
    if width is None:
        smallest = count(scale_width(architecture, factors[0]))
        stages = architecture["arch_kwargs"]["n_stages"]
        raise UserError(
            f"{where}: params={budget} is too small, the narrowest network with {stages} stages has {smallest} "
            "parameters; ask for more, or remove stages with depth=-1."
        )
    return scale_width(architecture, width)
