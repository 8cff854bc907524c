"""Which patches a network can take, tried on the network itself."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.errors import UserError
from nnunet_kd.planning.cost import STOCK_TRAINER, build_for_planning

STEPS = (1, 2, 4, 8, 16, 32, 64)
BATCH_SIZE = 2  # batch normalisation of a single value is impossible


def check_patch(plans_manager: PlansManager, configuration: str, dataset_json: dict[str, Any]) -> None:
    """Builds the network of a configuration and runs one training patch through it, without values.

    Raises:
        UserError: when it cannot take the patch, with the smallest that it can and the nearest that contains the patch;
            when it cannot be built.
    """
    cm = plans_manager.get_configuration(configuration)
    where = f"{plans_manager.plans_name}, {configuration}"
    channels = determine_num_input_channels(plans_manager, cm, dataset_json)
    try:
        network = build_for_planning(plans_manager, configuration, dataset_json, STOCK_TRAINER, "meta").train()
    except (ValueError, TypeError, RuntimeError) as err:
        raise UserError(f"{where}: the network cannot be built: {str(err).splitlines()[0]}.") from err
    patch = list(cm.patch_size)
    problem = _problem(network, channels, patch)
    if problem is None:
        return
    # Networks of other libraries may not run without values; what these cannot do either is not for that reason.
    real = build_for_planning(plans_manager, configuration, dataset_json, STOCK_TRAINER, "cpu").train()
    if (problem := _problem(real, channels, patch, "cpu")) is None:
        return
    strides = cm.configuration["architecture"]["arch_kwargs"].get("strides", [[1] * len(patch)])
    total = [math.prod(s[axis] for s in strides) for axis in range(len(patch))]
    steps = [total] if max(total) > 1 else [[s] * len(patch) for s in STEPS]
    name = cm.network_arch_class_name.rpartition(".")[2]
    shown = "x".join(map(str, patch))
    for step in steps:
        for times in (1, 2, 3, 4):
            smallest = [s * times for s in step]
            nearest = [max(s * math.ceil(p / s), m) for s, p, m in zip(step, patch, smallest, strict=True)]
            if _problem(network, channels, smallest) is None and _problem(network, channels, nearest) is None:
                raise UserError(
                    f"{where}: {name} cannot take patches of {shown}; the smallest that it can take is "
                    f"{'x'.join(map(str, smallest))}, the smallest that contains yours: "
                    f"--patch_size {' '.join(map(str, nearest))}."
                )
    raise UserError(f"{where}: {name} cannot take patches of {shown}, nor smaller ones: {problem}.")


def _problem(network: torch.nn.Module, channels: int, patch: Sequence[int], device: str = "meta") -> str | None:
    """Why a network cannot be trained with a patch; None when it can."""
    try:
        with torch.no_grad():
            output = network(torch.zeros(BATCH_SIZE, channels, *patch, device=device))
    except (RuntimeError, ValueError, AssertionError, IndexError) as err:
        return str(err).splitlines()[0] if str(err) else type(err).__name__
    size = tuple(output.shape[2:])
    return None if size == tuple(patch) else f"its output is {'x'.join(map(str, size))}"
