"""Which patches a network can take, tried on the network itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nnunet_kd.networks.base import has_lower_outputs
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.utilities.errors import UserError

STEPS = (1, 2, 4, 8, 16, 32, 64)
BATCH_SIZE = 2  # batch normalisation of a single value is impossible


def check_patch(model: PlannedModel) -> None:
    """Builds the network of a model and runs one training patch through it, if possible without values.

    Raises:
        UserError: when it cannot take the patch, with the smallest that it can and the nearest that contains the patch;
            when it cannot be built.
    """
    where, patch = f"{model.plans.plans_name}, {model.configuration}", model.patch
    architecture = model.manager.configuration["architecture"]
    strides = architecture["arch_kwargs"].get("strides", [[1] * len(patch)] * 2)
    trials: list[Trial] = []
    unfit: UserError | None = None
    for device in ("meta", "cpu"):  # networks of other libraries may need values
        try:
            network = model.build(device).train()
        except UserError as err:
            unfit = err
            continue
        trials.append(Trial(network, model.channels, model.classes, strides, device))
        if (found := trials[-1].problem(patch)) is None:
            return
        problem = found
    if unfit is not None and not trials:
        raise unfit
    name, shown = architecture["network_class_name"].rpartition(".")[2], "x".join(map(str, patch))
    sizes = trials[0].smallest_for(patch)
    if sizes is None:
        raise UserError(
            f"{where}: {name} cannot be trained on images with {model.channels} channels, with patches of {shown} or "
            f"of any other size that was tried: {problem}."
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
