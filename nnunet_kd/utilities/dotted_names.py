"""Dotted names in plans: only what allowed packages define is imported, and only networks and their parts are taken."""

import inspect
import os
import pydoc
import re
import typing
from typing import Any

from torch import nn

from nnunet_kd.utilities.extensions import extension_folders, extension_modules

VARIABLE = "NNUNET_KD_ALLOWED_PACKAGES"
PACKAGES = (
    "nnunetv2",
    "dynamic_network_architectures",
    "nnunet_kd",
    "torch.nn",
    "segmentation_models_pytorch",  # the extra "zoo", and the library that it brings
    "torchvision",
    "monai",
)
_INITIALISERS = ("torch.nn.init", "dynamic_network_architectures.initialization")


def allowed_packages() -> tuple[str, ...]:
    """Packages that plans may name: the built-in list, those of the variable, and the user's own networks."""
    added = re.split(r"[,\s]+", os.environ.get(VARIABLE, ""))
    return (*PACKAGES, *filter(None, added), *_extensions())


def _extensions() -> list[str]:
    return [file.stem for folder in extension_folders("networks") for file in sorted(folder.glob("*.py"))]


def locate(name: object) -> Any:
    """What a dotted name stands for; nothing outside the allowed packages is imported.

    Raises:
        ValueError: for a name that is none, or of a package that is not allowed.
        ImportError: when there is nothing of this name, or it cannot be imported.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name):
        raise ValueError(f"{name!r} is no dotted name of a class")
    if not _is_in(name, allowed_packages()):
        raise ValueError(
            f"{name}: plans may not name that package; if you trust it, add {name.partition('.')[0]} to the "
            f"environment variable {VARIABLE}"
        )
    if name.partition(".")[0] in _extensions():
        extension_modules("networks")  # nnU-Net, too, can import them afterwards
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport as err:
        raise ImportError(f"{name}: cannot be imported ({err.value}); install its library") from err
    if found is None:
        raise ImportError(f"{name}: there is no such class; install its library, or mend the name")
    return found


def is_module_class(found: Any) -> bool:
    """Whether something is a subclass of ``torch.nn.Module`` that an allowed package defines."""
    return inspect.isclass(found) and issubclass(found, nn.Module) and _is_in(found.__module__, allowed_packages())


def is_network(found: Any) -> bool:
    """The same, or a function of an allowed package that is annotated to return a ``torch.nn.Module``."""
    if inspect.isfunction(found) and _is_in(found.__module__, allowed_packages()):
        result = typing.get_type_hints(found).get("return")
        return inspect.isclass(result) and issubclass(result, nn.Module)
    return is_module_class(found)


def is_part(found: Any) -> bool:
    """Whether something is a part of networks: a ``torch.nn.Module``, or a class or function that initialises one."""
    defined = inspect.isclass(found) or inspect.isfunction(found)
    added = allowed_packages()[len(PACKAGES) :]
    return is_module_class(found) or (defined and _is_in(found.__module__, (*_INITIALISERS, *added)))


def _is_in(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)
