"""The arguments that plans give every network, documented once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from nnunet_kd.networks.layers import Layers, Size

Part = tuple[type[nn.Module], Mapping[str, Any]]


@dataclass(frozen=True)
class PlanArguments:
    """What plans say of every network; constructors take these as keywords beside arguments of their own.

    Attributes:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        n_stages: resolutions.
        features_per_stage: channels for each stage, highest resolution first; 0 for a stage without features.
        conv_op: ``torch.nn.Conv2d`` or ``torch.nn.Conv3d``.
        kernel_sizes: for each stage.
        strides: for each stage, the first is 1.
        norm_op: normalisation; None: the network's own.
        norm_op_kwargs: arguments of ``norm_op``; None: the network's own.
        nonlin: activation; None: the network's own.
        nonlin_kwargs: arguments of ``nonlin``; None: the network's own.
        deep_supervision: whether the forward pass returns all outputs, or the one at full resolution.
    """

    input_channels: int
    num_classes: int
    n_stages: int
    features_per_stage: Sequence[int]
    conv_op: type[nn.Module]
    kernel_sizes: Sequence[Size]
    strides: Sequence[Size]
    norm_op: type[nn.Module] | None = None
    norm_op_kwargs: Mapping[str, Any] | None = None
    nonlin: type[nn.Module] | None = None
    nonlin_kwargs: Mapping[str, Any] | None = None
    deep_supervision: bool = False

    def check(self, stages: int | None = None, **per_stage: Sequence) -> None:
        """Checks that every argument has one entry for each stage.

        Args:
            stages: number of stages that the network has; None: any.
            **per_stage: further arguments with one entry for each stage.

        Raises:
            ValueError: names the argument.
        """
        if stages is not None and self.n_stages != stages:
            raise ValueError(f"n_stages is {self.n_stages}, but this network has {stages}")
        given = {k: getattr(self, k) for k in ("features_per_stage", "kernel_sizes", "strides")}
        for name, values in (given | per_stage).items():
            if len(values) != self.n_stages:
                raise ValueError(f"{name} has {len(values)} entries, but n_stages is {self.n_stages}")

    def layers(self, norm: Part | None = None, nonlin: Part | None = None, bias: bool = False) -> Layers:
        """The network's layers, with its own normalisation and activation where the plans name none.

        Args:
            norm: the network's normalisation and its arguments; None: batch normalisation.
            nonlin: the network's activation and its arguments; None: ReLU.
            bias: whether convolutions have one, unless they are asked otherwise.
        """
        norm_op, norm_op_kwargs = _choose(self.norm_op, self.norm_op_kwargs, norm)
        activation, nonlin_kwargs = _choose(self.nonlin, self.nonlin_kwargs, nonlin)
        return Layers(self.conv_op, norm_op, norm_op_kwargs, activation, nonlin_kwargs, bias)


def _choose(
    planned: type[nn.Module] | None, kwargs: Mapping[str, Any] | None, own: Part | None
) -> tuple[type[nn.Module] | None, Mapping[str, Any] | None]:
    if planned is not None or own is None:
        return planned, kwargs
    return own[0], own[1] if kwargs is None else kwargs
