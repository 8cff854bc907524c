"""Recipes: presets of the ``"kd"`` block in ``nnunet_kd.plans`` and in users' folders. Never imports torch."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.extensions import extension_folders
from nnunet_kd.utilities.files import load_json_file


@dataclass(frozen=True)
class Recipe:
    """One preset: the part of the ``"kd"`` block it sets, its source, and where it departs from that."""

    name: str
    source: str
    kd: dict[str, Any]
    notes: tuple[str, ...]


def recipe_names() -> list[str]:
    """Names that ``--recipe`` accepts, sorted."""
    return sorted(_files())


def _files() -> dict[str, Path]:
    """Files of the recipes by name: those of the package, then the user's, which may replace them."""
    folders = [Path(str(resources.files("nnunet_kd.plans"))), *extension_folders("plans")]
    return {file.stem: file for folder in folders for file in folder.glob("*.json")}


def load_recipe(name: str) -> Recipe:
    """Reads a recipe of the package or of a user's folder.

    Raises:
        UserError: for a name that is none, with those that are, and for a file that is no recipe.
    """
    files = _files()
    if name not in files:
        raise UserError(f"--recipe {name}: no such recipe; there are {', '.join(sorted(files))}.")
    content = load_json_file(files[name])
    source, kd, notes = (content.get(key) for key in ("source", "kd", "notes"))
    if not (isinstance(source, str) and isinstance(kd, dict) and isinstance(notes, list)):
        raise UserError(f"{files[name]}: a recipe has 'source' (text), 'kd' (an object) and 'notes' (a list of texts).")
    return Recipe(name, source, kd, tuple(map(str, notes)))
