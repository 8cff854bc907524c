"""Networks of other libraries, named in plans."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnunet_kd.networks.base import Decoder, PlannedNetwork
from nnunet_kd.networks.family import Family
from nnunet_kd.networks.layers import Size, resize
from nnunet_kd.utilities.dotted_names import is_network, locate
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.safe_files import load_torch_file

SMP, TORCHVISION = "segmentation_models_pytorch.", "torchvision.models.segmentation."  # for 2D alone
# Arguments by which libraries ask for a download, and what turns it off
DOWNLOADS = {
    "encoder_weights": None,
    "weights": None,
    "weights_backbone": None,
    "pretrained": False,
    "pretrained_backbone": False,
    "pretrained_url": None,
}


class ExternalNetwork(PlannedNetwork):
    """Any importable ``torch.nn.Module`` for segmentation, with its own names of arguments.

    Weights are never downloaded: arguments that would do so are turned off. Weights of a local file are loaded at
    planning, see :func:`load_weights`.

    Args:
        input_channels: channels of the image.
        num_classes: channels of the logits.
        network: dotted name of a class, or of a function whose return annotation is one, such as
            ``segmentation_models_pytorch.DeepLabV3Plus`` or ``torchvision.models.segmentation.fcn_resnet101``.
        network_kwargs: its other arguments.
        input_argument: its argument for the channels of the image; None: it has none.
        classes_argument: its argument for the number of classes.
        repeat_input: times the image's channels are repeated, for networks of fixed input.
        output: name of the logits where it returns a dictionary.
        n_stages: 2.
        strides: all 1; nnU-Net reads the number of outputs from them, and there is one.
        deep_supervision: must be False.

    Raises:
        ValueError: for a name that is no network, weights to download, or deep supervision.
        ImportError: when the library is not installed.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        network: str,
        network_kwargs: Mapping[str, Any] | None = None,
        input_argument: str | None = "in_channels",
        classes_argument: str = "out_channels",
        repeat_input: int = 1,
        output: str | None = None,
        n_stages: int = 2,
        strides: Sequence[Size] = (1, 1),
        deep_supervision: bool = False,
    ):
        super().__init__(input_channels)
        if deep_supervision:
            raise ValueError(
                f"{network}: a network of another library has one output and no deep supervision; train it with a "
                "trainer of nnunet_kd or with nnUNetTrainerNoDeepSupervision"
            )
        build = find_network(network)
        kwargs = dict(network_kwargs or {}) | {classes_argument: num_classes}
        if input_argument is not None:
            kwargs[input_argument] = input_channels * repeat_input
        self.network = build(**without_downloads(build, kwargs, network))
        self.repeat_input = repeat_input
        self.output = output
        self.decoder = Decoder(deep_supervision=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, input_channels, *spatial) -> logits (B, num_classes, *spatial), interpolated where they are smaller.

        Raises:
            ValueError: when the network returns a dictionary without ``output``.
        """
        y = self.network(x.repeat(1, self.repeat_input, *[1] * (x.ndim - 2)) if self.repeat_input > 1 else x)
        if isinstance(y, Mapping):
            if self.output not in y:
                raise ValueError(f"the library's network returns {', '.join(y)}; name the logits with output=NAME")
            y = y[self.output]
        elif isinstance(y, list | tuple):
            y = y[0]
        return resize(y, x.shape[2:])

    @classmethod
    def plan_arguments(
        cls, base: Mapping[str, Any], features: Sequence[int], fixed_stages: bool, regions: bool
    ) -> dict[str, Any]:
        """See :class:`PlannedNetwork`; nnU-Net reads the number of outputs from the strides."""
        return {"n_stages": 2, "strides": [[1] * len(base["strides"][0])] * 2}

    @classmethod
    def set_arguments(cls, arguments: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """See :class:`PlannedNetwork`; what is no argument of this class is one of the library's network.

        Raises:
            UserError: when the library's network is not named, cannot be imported, is none, or is for 2D alone.
        """
        own = {key: given[key] for key in given if key in cls.argument_names()}
        result = {**arguments, **own}
        inner = result.get("network_kwargs", {}) | {key: given[key] for key in given if key not in own}
        if "network" not in result:
            raise UserError(
                "--student external: name the network, for example --student-arg network=monai.networks.nets.SegResNet."
            )
        try:
            known = inspect.signature(find_network(result["network"])).parameters
        except ImportError as err:
            raise UserError(f"{where}: {err} (pip install 'nnunet-kd[zoo]' has those of the papers).") from err
        except ValueError as err:
            raise UserError(f"--student-arg network: {err}.") from err
        dim = len(result["strides"][0])
        if "spatial_dims" in known:
            inner.setdefault("spatial_dims", dim)
        elif dim == 3 and result["network"].startswith((SMP, TORCHVISION)):
            raise UserError(f"{where}: {result['network']} is a 2D network; use -c 2d.")
        return result | {"network_kwargs": inner}

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Leaves the library's own initialisation as it is."""


def find_network(name: str) -> Callable[..., nn.Module]:
    """The class or function of a dotted name, if it makes a network.

    Raises:
        ValueError: when it is none: a plans file must not be able to call anything else.
        ImportError: when its library is not installed.
    """
    found = locate(name)
    if not is_network(found):
        raise ValueError(f"{name} is neither a torch.nn.Module nor a function that says it returns one")
    return typing.cast(Callable[..., nn.Module], found)


def without_downloads(build: Callable, kwargs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Arguments with every download turned off.

    Raises:
        ValueError: when they ask for one.
    """
    known = inspect.signature(build).parameters
    result = dict(kwargs)
    for argument, off in DOWNLOADS.items():
        if result.get(argument):
            raise ValueError(f"{name}: {argument}={result[argument]!r} asks for a download; give a local file instead")
        if argument in known:
            result[argument] = off
    return result


def load_weights(network: nn.Module, file: Path) -> tuple[int, int]:
    """Loads the weights of a local file that fit, by name and shape.

    The file holds a ``state_dict``, alone or under ``state_dict``, ``model`` or ``network_weights``; names may begin
    with ``module.``; a checkpoint of nnU-Net is such a file. For an :class:`ExternalNetwork` they are those of the
    library's network. Nothing that could be code is read.

    Args:
        network: what receives them.
        file: a file of ``torch.save``.

    Returns:
        Number of tensors loaded, and of tensors the network has.

    Raises:
        UserError: when the file cannot be read.
        ValueError: when nothing in it fits.
    """
    state = load_torch_file(file, "file of weights")
    for key in ("network_weights", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    target = network.network if isinstance(network, ExternalNetwork) else network
    own = target.state_dict()
    named = {str(k).removeprefix("module."): v for k, v in state.items()} if isinstance(state, dict) else {}
    fitting = {k: v for k, v in named.items() if k in own and getattr(v, "shape", None) == own[k].shape}
    if not fitting:
        raise ValueError(f"{file}: none of its {len(named)} tensors has a name and shape of the network's")
    target.load_state_dict(own | fitting)
    return len(fitting), len(own)


def _smp(network: str, encoder: str = "resnet50") -> dict[str, Any]:
    return {"network": SMP + network, "classes_argument": "classes", "network_kwargs": {"encoder_name": encoder}}


_FCN = {
    "network": TORCHVISION + "fcn_resnet101",
    "classes_argument": "num_classes",
    "input_argument": None,
    "repeat_input": 3,
    "output": "out",
}
_X101 = _smp("FPN", "resnext101_32x8d")
_QIN, _BEN = "teacher of Qin et al. 2021", "teacher of Ben Loussaief et al. 2023"
FAMILIES = (
    Family("pspnet", ExternalNetwork, f"{_QIN}; {_BEN}", (), _smp("PSPNet"), description="PSPNet, ResNet-50; 2D."),
    Family("unetplusplus", ExternalNetwork, _QIN, (), _smp("UnetPlusPlus"), description="UNet++, ResNet-50; 2D."),
    Family("deeplabv3plus", ExternalNetwork, _BEN, (), _smp("DeepLabV3Plus"), description="DeepLabV3+, ResNet-50; 2D."),
    Family("resnext101", ExternalNetwork, _BEN, (), _X101, description="FPN, ResNeXt-101 32x8d; 2D."),
    Family("fcn-resnet101", ExternalNetwork, _BEN, (), _FCN, description="FCN, ResNet-101; 2D."),
    Family("external", ExternalNetwork, "the library that --student-arg network=NAME names"),
)
