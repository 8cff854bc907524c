"""Networks of ``nnunet_kd.networks`` by the names of ``--student``, and their plans from a base network's."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import nnunet_kd.networks
from nnunet_kd.networks.external import find_network
from nnunet_kd.utilities.errors import UserError

_IMPORTED = ("conv_op", "norm_op", "nonlin")
_OPTIONAL = ("norm_op", "norm_op_kwargs", "nonlin", "nonlin_kwargs")


@dataclass(frozen=True)
class Family:
    """One network that plans can be made for.

    Attributes:
        network: class in ``nnunet_kd.networks``.
        features: the paper's channels for each resolution, highest first; 0 where the network has no features.
        arguments: arguments of the class beside those that come from the base plans.
        fixed_stages: the network has exactly these resolutions, and base plans with fewer give it strides of 1;
            otherwise it gets as few stages as they have.
    """

    network: str
    features: tuple[int, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fixed_stages: bool = True

    @property
    def cls(self) -> type:
        """The class."""
        return getattr(nnunet_kd.networks, self.network)


def _external(network: str, classes_argument: str = "classes", **arguments: Any) -> Family:
    return Family("ExternalNetwork", arguments={"network": network, "classes_argument": classes_argument, **arguments})


_SMP, _TORCHVISION = "segmentation_models_pytorch.", "torchvision.models.segmentation."
_RESNET50 = {"encoder_name": "resnet50"}
_USE_BLOCKS = {"n_blocks_per_stage": (1, 2, 3, 4, 5)}
FAMILIES: Mapping[str, Family] = {
    "use-net": Family("ResidualUSENet", (32, 64, 128, 256, 512), _USE_BLOCKS, fixed_stages=False),
    "mobile-use-net": Family("MobileResidualUSENet", (32, 64, 128, 256, 512), _USE_BLOCKS, fixed_stages=False),
    "noothout-unet": Family("NoothoutUNet", (32, 64, 128, 256), fixed_stages=False),
    "noothout-resnet": Family("NoothoutResNet", (32, 64, 128), fixed_stages=False),
    "dilated": Family("DilatedNet", (32,) * 8),
    "enet": Family("ENet", (0, 16, 64, 128)),
    "espnet": Family("ESPNet", (0, 16, 64, 128)),
    "mobilenetv2": Family("MobileNetV2Seg", (0, 24, 96, 320)),
    "resnet18": Family("ResNet18Seg", (0, 64, 64, 128, 256, 512)),
    "ra-unet": Family("RAUNet", (0, 64, 64, 128, 256, 512)),
    "pspnet": _external(_SMP + "PSPNet", network_kwargs=_RESNET50),
    "deeplabv3plus": _external(_SMP + "DeepLabV3Plus", network_kwargs=_RESNET50),
    "unetplusplus": _external(_SMP + "UnetPlusPlus", network_kwargs=_RESNET50),
    "resnext101": _external(_SMP + "FPN", network_kwargs={"encoder_name": "resnext101_32x8d"}),
    "fcn-resnet101": _external(
        _TORCHVISION + "fcn_resnet101", "num_classes", input_argument=None, repeat_input=3, output="out"
    ),
    "external": Family("ExternalNetwork"),
}


def family_architecture(
    name: str, base: Mapping[str, Any], where: str = "plans", regions: bool = False
) -> dict[str, Any]:
    """``architecture`` of a family's network at the paper's width, with the base network's strides and kernels.

    Args:
        name: key of ``FAMILIES``.
        base: ``architecture`` of the base configuration.
        where: file and configuration, for messages.
        regions: the data set's labels are regions.

    Raises:
        UserError: when the base architecture has no strides to go by.
    """
    family = FAMILIES[name]
    kwargs = base["arch_kwargs"]
    if not {"strides", "conv_op"} <= set(kwargs):
        raise UserError(f"{where}: {base['network_class_name']} has no strides that {name} could take over.")
    strides = [list(s) for s in kwargs["strides"]]
    dim = len(strides[0])
    arguments: dict[str, Any] = {}
    if family.network == "ExternalNetwork":
        arguments |= {"n_stages": 2, "strides": [[1] * dim] * 2}
    elif family.network == "DilatedNet":
        arguments |= _stages(kwargs, family.features, [[1] * dim] * 8, [[3, 3]] * 8)
        if dim == 3:
            thick = kwargs.get("kernel_sizes", [[3] * 3])[0][0] == 1  # nnU-Net's sign of thick slices
            arguments |= {"planes": [0] if thick else [0, 1, 2], "sigmoid": regions}
    else:
        number = len(family.features) if family.fixed_stages else min(len(family.features), len(strides))
        kernels = [list(k) for k in kwargs["kernel_sizes"]]
        strides += [[1] * dim] * (number - len(strides))
        kernels += [kernels[-1]] * (number - len(kernels))
        arguments |= _stages(kwargs, family.features[:number], strides[:number], kernels[:number])
    for key, value in family.arguments.items():
        arguments[key] = list(value)[: arguments["n_stages"]] if isinstance(value, tuple) else deepcopy(value)
    return {
        "network_class_name": f"nnunet_kd.networks.{family.network}",
        "arch_kwargs": arguments,
        "_kw_requires_import": [k for k in _IMPORTED if k in arguments],
    }


def _stages(base: Mapping[str, Any], features: tuple, strides: list, kernels: list) -> dict[str, Any]:
    return {
        "n_stages": len(features),
        "features_per_stage": list(features),
        "conv_op": base["conv_op"],
        "kernel_sizes": kernels,
        "strides": strides,
        **dict.fromkeys(_OPTIONAL),
    }


def set_arguments(
    architecture: Mapping[str, Any], arguments: Mapping[str, Any], family: str | None, where: str = "plans"
) -> dict[str, Any]:
    """Sets single arguments of the network's class; for libraries' networks also those of theirs.

    Args:
        architecture: from :func:`family_architecture`, or of nnU-Net's own classes.
        arguments: ``--student-arg``.
        family: key of ``FAMILIES``; None: one of nnU-Net's classes.
        where: file and configuration, for messages.

    Raises:
        UserError: for an argument that the class does not have, with those it has.
    """
    result = deepcopy(dict(architecture))
    kwargs = result["arch_kwargs"]
    given = dict(arguments)
    if family is None:
        known = set(kwargs)
    else:
        cls = FAMILIES[family].cls
        known = set(inspect.signature(cls).parameters) - {"input_channels", "num_classes", "deep_supervision"}
        if cls is nnunet_kd.networks.ExternalNetwork:
            inner = {k: given.pop(k) for k in list(given) if k not in known}
            kwargs |= given
            kwargs["network_kwargs"] = kwargs.get("network_kwargs", {}) | inner
            return _complete_external(result, where)
    if unknown := sorted(set(given) - known):
        name = result["network_class_name"].rpartition(".")[2]
        raise UserError(
            f"--student-arg {unknown[0]}: {name} has no such argument; there are {', '.join(sorted(known))}."
        )
    kwargs |= given
    return result


def _complete_external(architecture: dict[str, Any], where: str) -> dict[str, Any]:
    """Checks a library's network and tells it the number of axes where it asks for that.

    Raises:
        UserError: when it is not named, cannot be imported or is none.
    """
    kwargs = architecture["arch_kwargs"]
    if "network" not in kwargs:
        raise UserError(
            "--student external: name the network, for example --student-arg network=monai.networks.nets.SegResNet."
        )
    try:
        known = inspect.signature(find_network(kwargs["network"])).parameters
    except ImportError as err:
        raise UserError(f"{where}: {err} (pip install 'nnunet-kd[zoo]' has those of the papers).") from err
    except ValueError as err:
        raise UserError(f"--student-arg network: {err}.") from err
    dim = len(kwargs["strides"][0])
    if "spatial_dims" in known:
        kwargs["network_kwargs"].setdefault("spatial_dims", dim)
    elif dim == 3 and kwargs["network"].startswith((_SMP, _TORCHVISION)):
        raise UserError(f"{where}: {kwargs['network']} is a 2D network; use -c 2d.")
    return architecture
