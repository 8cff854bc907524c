"""What nnU-Net expects of a network that plans name."""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_kd.networks.arguments import PlanArguments
from nnunet_kd.utilities.errors import UserError


class Decoder(nn.Module):
    """Part of a network that makes logits; nnU-Net switches ``deep_supervision`` here.

    As in nnU-Net's own decoder, the layers of the side outputs exist whether deep supervision is on or off, so that a
    checkpoint loads in both cases. nnU-Net does not transfer ``seg_layers`` when it fine-tunes.

    Attributes:
        deep_supervision: whether the forward pass returns all outputs, or the one at full resolution.
        seg_layers: features -> logits, lowest resolution first.
    """

    seg_layers: nn.ModuleList

    def __init__(self, deep_supervision: bool):
        super().__init__()
        self.deep_supervision = deep_supervision

    def freeze_unused(self) -> None:
        """Side outputs of a network built without deep supervision are never trained: DDP must not wait for them."""
        if not self.deep_supervision:
            self.seg_layers[:-1].requires_grad_(False)

    def outputs(self, features: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Logits from the features of every resolution.

        Args:
            features: one (B, C, *spatial) for each of ``seg_layers``, lowest resolution first.

        Returns:
            Logits at full resolution, or a list of all logits, highest resolution first.
        """
        if not self.deep_supervision:
            return self.seg_layers[-1](features[-1])
        return [layer(f) for layer, f in zip(self.seg_layers, features, strict=True)][::-1]


class PlannedNetwork(nn.Module):
    """A network that nnU-Net builds from plans, trains, fine-tunes and predicts with.

    With deep supervision it returns one output for each entry of ``strides`` but the last, highest resolution first,
    which is what nnU-Net's trainers expect.
    """

    decoder: Decoder

    @property
    def feature_names(self) -> dict[str, str]:
        """Features that distillation may imitate: ``encoder.0`` (highest resolution), ..., ``decoder.0`` (lowest), ...

        Returns:
            Name -> dotted module path, in the order of computation; empty where layers go by their path only.
        """
        return {}

    def __init__(self, input_channels: int):
        super().__init__()
        self.input_channels = input_channels

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """Values in the outputs of all convolutions for one image; nnU-Net's planner estimates memory with it.

        Args:
            input_size: spatial size, without batch and channels.
        """
        sizes: list[int] = []
        copy = deepcopy(self).to("meta").eval()
        for module in copy.modules():
            if isinstance(module, nn.modules.conv._ConvNd):
                module.register_forward_hook(lambda _, __, output: sizes.append(output.numel()))
        with torch.no_grad():
            copy(torch.zeros(1, self.input_channels, *input_size, device="meta"))
        return np.sum(sizes, dtype=np.int64)

    @classmethod
    def plan_arguments(
        cls, base: Mapping[str, Any], features: Sequence[int], fixed_stages: bool, regions: bool
    ) -> dict[str, Any]:
        """Arguments for plans: the base network's strides and kernels, as far as they go, with these features.

        Args:
            base: arguments of the base plans' network.
            features: channels for each resolution, highest first.
            fixed_stages: there are exactly these resolutions, those below the base network's with strides of 1.
            regions: the data set's labels are regions.
        """
        strides, kernels = ([list(size) for size in base[key]] for key in ("strides", "kernel_sizes"))
        number = len(features) if fixed_stages else min(len(features), len(strides))
        more = number - len(strides)
        return {
            "n_stages": number,
            "features_per_stage": list(features[:number]),
            "conv_op": base["conv_op"],
            "kernel_sizes": (kernels + [kernels[-1]] * more)[:number],
            "strides": (strides + [[1] * len(strides[0])] * more)[:number],
            **dict.fromkeys(("norm_op", "norm_op_kwargs", "nonlin", "nonlin_kwargs")),
        }

    @classmethod
    def set_arguments(cls, arguments: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Arguments for plans with those that a user sets.

        Args:
            arguments: from :meth:`plan_arguments`.
            given: ``--student-arg``.
            where: file and configuration, for messages.

        Raises:
            UserError: for an argument that the class does not have, with those it has.
        """
        refuse_unknown(cls.__name__, given, cls.argument_names())
        return {**arguments, **given}

    @classmethod
    def argument_names(cls) -> set[str]:
        """Arguments that plans may set: the constructor's own and those of all networks."""
        parameters = inspect.signature(cls).parameters
        names = {p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD}
        if len(names) < len(parameters):
            names |= {f.name for f in fields(PlanArguments)}
        return names - {"input_channels", "num_classes", "deep_supervision"}

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """He initialisation of convolutions, as nnU-Net does; called for every module."""
        InitWeights_He(1e-2)(module)


def refuse_unknown(network: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuses arguments that a network does not have.

    Raises:
        UserError: names the first of them, and those it has.
    """
    if unknown := sorted(set(given) - set(known)):
        raise UserError(
            f"--student-arg {unknown[0]}: {network} has no such argument; there are {', '.join(sorted(known))}."
        )


def has_lower_outputs(strides: Sequence[Sequence[int]]) -> bool:
    """Whether deep supervision has anything to supervise but the output at full resolution.

    nnU-Net 2.8.1 takes one output for each entry of ``strides`` but the last, and gives the last output no weight: with
    a single one the loss would be 0 / 0.
    """
    return any(max(stride) > 1 for stride in strides[1:-1])


def number_features(part: str, paths: Iterable[str]) -> dict[str, str]:
    """``part.0``, ``part.1``, ... -> dotted module paths."""
    return {f"{part}.{i}": path for i, path in enumerate(paths)}
