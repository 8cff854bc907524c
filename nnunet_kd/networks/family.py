"""Networks by the names of ``--student``: a family is declared beside its class, and found by looking into its file."""

import ast
import inspect
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.extensions import extension_folders, room_modules

if TYPE_CHECKING:
    from nnunet_kd.networks.base import PlannedNetwork

PACKAGE = "nnunet_kd.networks"
_IMPORTED = ("conv_op", "norm_op", "nonlin")


@dataclass(frozen=True)
class Family:
    """One network that plans can be made for; a file of ``networks`` lists its own as ``FAMILIES``.

    Attributes:
        name: for ``--student``, given as a literal; ``same`` is taken.
        network: its class.
        source: where the network is from.
        features: the paper's channels for each resolution, highest first; 0 where the network has no features; empty
            where its width cannot be set.
        arguments: of the class, set beside those that come from the base plans; a tuple has an entry for each stage.
        fixed_stages: the network has exactly these resolutions, and base plans with fewer give it strides of 1;
            otherwise it gets as few stages as they have.
        smallest_patch: voxels along every axis of the smallest patch, where all strides but the first are 2; None where
            it depends on arguments.
        description: one sentence; by default the first of the class.
    """

    name: str
    network: "type[PlannedNetwork]"
    source: str
    features: tuple[int, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fixed_stages: bool = True
    smallest_patch: int | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if self.name == "same" or not re.fullmatch(r"[a-z][a-z0-9-]*", self.name):
            raise UserError(f"family {self.name!r}: expected small letters, digits and '-' for --student, not same.")
        if not self.description:
            object.__setattr__(self, "description", (inspect.getdoc(self.network) or "").partition("\n\n")[0])

    @property
    def class_path(self) -> str:
        """The class as plans name it."""
        module = self.network.__module__
        return f"{PACKAGE if module.startswith(f'{PACKAGE}.') else module}.{self.network.__name__}"

    def architecture(self, base: Mapping[str, Any], where: str = "plans", regions: bool = False) -> dict[str, Any]:
        """``architecture`` for plans at the paper's width, with the base network's strides and kernels.

        Args:
            base: ``architecture`` of the base configuration.
            where: file and configuration, for messages.
            regions: the data set's labels are regions.

        Raises:
            UserError: when the base architecture has no strides to go by.
        """
        kwargs = base["arch_kwargs"]
        if not {"strides", "kernel_sizes", "conv_op"} <= set(kwargs):
            raise UserError(f"{where}: {base['network_class_name']} has no strides that {self.name} could take over.")
        arguments = self.network.plan_arguments(kwargs, self.features, self.fixed_stages, regions)
        for key, value in self.arguments.items():
            arguments[key] = list(value)[: arguments["n_stages"]] if isinstance(value, tuple) else deepcopy(value)
        return {
            "network_class_name": self.class_path,
            "arch_kwargs": arguments,
            "_kw_requires_import": [k for k in _IMPORTED if k in arguments],
        }


def families() -> dict[str, Family]:
    """Name -> family, of this package and of the user's folders.

    Raises:
        UserError: when two families have one name, or a user's file cannot be imported.
    """
    found: dict[str, Family] = {}
    for module in room_modules("networks"):
        for family in getattr(module, "FAMILIES", ()):
            if family.name in found:
                raise UserError(f"{module.__file__}: another network is named {family.name}; rename this family.")
            found[family.name] = family
    return found


def family_names() -> list[str]:
    """The names of :func:`families`, read from the files without importing them: ``--help`` must answer at once.

    Raises:
        UserError: for a user's file that is no Python.
    """
    names: list[str] = []
    for folder in (Path(__file__).parent, *extension_folders("networks")):
        for file in sorted(folder.glob("*.py")):
            try:
                tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError) as err:
                raise UserError(f"{file}: cannot be read as Python ({err}).") from err
            for node in ast.walk(tree):
                match node:
                    case ast.Call(func=ast.Name("Family"), args=[ast.Constant(str(name)), *_]):
                        names.append(name)
    return names
