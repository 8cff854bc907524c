"""Which patches a network can take, tried on the network itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.networks.base import has_lower_outputs
from nnunet_kd.planning.cost import STOCK_TRAINER, build_for_planning
from nnunet_kd.utilities.errors import UserError

STEPS = (1, 2, 4, 8, 16, 32, 64)
BATCH_SIZE = 2  # batch normalisation of a single value is impossible


def check_patch(plans_manager: PlansManager, configuration: str, dataset_json: dict[str, Any]) -> None:
    """Builds the network of a configuration and runs one training patch through it, if possible without values.

    Raises:
        UserError: when it cannot take the patch, with the smallest that it can and the nearest that contains the patch;
            when it cannot be built.
    """
    cm = plans_manager.get_configuration(configuration)
    where = f"{plans_manager.plans_name}, {configuration}"
    patch = list(cm.patch_size)
    strides = cm.configuration["architecture"]["arch_kwargs"].get("strides", [[1] * len(patch)] * 2)
    channels = determine_num_input_channels(plans_manager, cm, dataset_json)
    classes = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
    trials: list[Trial] = []
    unfit: UserError | None = None
    for device in ("meta", "cpu"):  # networks of other libraries may need values
        try:
            network = build_for_planning(plans_manager, configuration, dataset_json, STOCK_TRAINER, device).train()
        except UserError as err:
            unfit = err
            continue
        trials.append(Trial(network, channels, classes, strides, device))
        if (found := trials[-1].problem(patch)) is None:
            return
        problem = found
    if unfit is not None and not trials:
        raise unfit
    name, shown = cm.network_arch_class_name.rpartition(".")[2], "x".join(map(str, patch))
    sizes = trials[0].smallest_for(patch)
    if sizes is None:
        raise UserError(
            f"{where}: {name} cannot be trained on images with {channels} channels, with patches of {shown} or of any "
            f"other size that was tried: {problem}."
        )
    smallest, nearest = sizes
    raise UserError(
        f"{where}: {name} cannot take patches of {shown}; the smallest that it can take is "
        f"{'x'.join(map(str, smallest))}, the smallest that contains yours: "
        f"--patch_size {' '.join(map(str, nearest))}."
    )


@dataclass(frozen=True)
class Trial:
    """A network in training mode that patches are tried on."""

    network: torch.nn.Module
    channels: int
    classes: int
    strides: Sequence[Sequence[int]]
    device: str

    def problem(self, patch: Sequence[int]) -> str | None:
        """Why a network cannot be trained with a patch; None when it can."""
        decoder: Any = getattr(self.network, "decoder", None)
        if deep := has_lower_outputs(self.strides) and hasattr(decoder, "deep_supervision"):
            decoder.deep_supervision = True
        try:
            with torch.no_grad():
                outputs = self.network(torch.zeros(BATCH_SIZE, self.channels, *patch, device=self.device))
        except Exception as err:  # whatever a network says about its input
            return str(err).splitlines()[0] if str(err) else type(err).__name__
        total = [1] * len(patch)
        for output, stride in zip(outputs if deep else [outputs], self.strides, strict=False):
            total = [t * s for t, s in zip(total, stride, strict=True)] if deep else total
            if not isinstance(output, torch.Tensor) or output.shape[1] != self.classes:
                return f"an output has not one channel for each of {self.classes} classes"
            expected = [round(p / t) for p, t in zip(patch, total, strict=True)]  # as nnU-Net shrinks the reference
            if list(output.shape[2:]) != expected:
                return f"an output is {'x'.join(map(str, output.shape[2:]))}, not {'x'.join(map(str, expected))}"
        return None

    def smallest_for(self, patch: Sequence[int]) -> tuple[list[int], list[int]] | None:
        """The smallest patch that is possible, and the smallest that contains ``patch``; None when none is found."""
        total = [math.prod(s[axis] for s in self.strides) for axis in range(len(patch))]
        for step in [total] if max(total) > 1 else [[s] * len(patch) for s in STEPS]:
            for times in (1, 2, 3, 4):
                smallest = [s * times for s in step]
                nearest = [max(s * math.ceil(p / s), m) for s, p, m in zip(step, patch, smallest, strict=True)]
                if self.problem(smallest) is None and self.problem(nearest) is None:
                    return smallest, nearest
        return None
