"""The files of a room: those of this package, and those that users keep in folders of their own.

``NNUNET_KD_EXTENSIONS`` names folders (separated as in ``PATH``) that are laid out as this package is: ``losses/``,
``networks/``, ``dataset_conversion/`` and ``trainers/`` hold Python files, ``plans/`` holds recipes. They count as if
they were here. As with nnU-Net's ``nnUNet_extTrainer``, setting the variable means trusting what is in those folders.
"""

import importlib
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from nnunet_kd.utilities.errors import UserError

VARIABLE = "NNUNET_KD_EXTENSIONS"


def extension_folders(room: str) -> list[Path]:
    """The user's folders for a room.

    Args:
        room: ``losses``, ``networks``, ``dataset_conversion``, ``trainers`` or ``plans``.

    Raises:
        UserError: when the variable names what is no folder.
    """
    found = []
    for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        folder = Path(name).expanduser().resolve()
        if not folder.is_dir():
            raise UserError(f"{VARIABLE}: {name} is no folder; mend the variable or unset it.")
        if (folder / room).is_dir():
            found.append(folder / room)
    return found


def room_modules(room: str) -> list[ModuleType]:
    """Imports every module of a room, then those of the user's folders for it.

    The latter are imported by their bare names, so that plans can name their classes; for prediction with stock nnU-Net
    their folder belongs to ``PYTHONPATH``.

    Raises:
        UserError: for a user's module that cannot be imported, or whose name another module has.
    """
    package = importlib.import_module(f"nnunet_kd.{room}")
    own = sorted(m.name for m in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in own]
    return modules + extension_modules(room)


def extension_modules(room: str) -> list[ModuleType]:
    """The modules of the user's folders for a room alone; see :func:`room_modules`."""
    return [_import(file) for folder in extension_folders(room) for file in sorted(folder.glob("*.py"))]


def _import(file: Path) -> ModuleType:
    name = file.stem
    if not name.isidentifier():
        raise UserError(f"{VARIABLE}: {file} cannot be imported, its name is no Python name; rename it.")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        module = importlib.import_module(name)
    except UserError:
        raise
    except (Exception, SystemExit) as err:  # whatever a user's file raises; a script may end with sys.exit()
        raise UserError(f"{VARIABLE}: {file} cannot be imported ({type(err).__name__}: {err}).") from err
    if getattr(module, "__file__", None) is None or Path(str(module.__file__)).resolve() != file:
        raise UserError(f"{VARIABLE}: {file} has the name of another module, {name}; rename it.")
    return module
