"""Recipes of ``nnunet_kd.plans``: presets of the ``"kd"`` block with the paper they come from."""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from nnunet_kd.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """One preset: the part of the ``"kd"`` block it sets, its source, and where it departs from that."""

    name: str
    source: str
    kd: dict[str, Any]
    notes: tuple[str, ...]


def recipe_names() -> list[str]:
    """Names that ``--recipe`` accepts, sorted."""
    files = resources.files("nnunet_kd.plans").iterdir()
    return sorted(f.name.removesuffix(".json") for f in files if f.name.endswith(".json"))


def load_recipe(name: str) -> Recipe:
    """Reads a recipe that comes with the package.

    Raises:
        UserError: for a name that is none, with those that are.
    """
    if name not in recipe_names():
        raise UserError(f"--recipe {name}: no such recipe; there are {', '.join(recipe_names())}.")
    content = json.loads(resources.files("nnunet_kd.plans").joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return Recipe(name, content["source"], content["kd"], tuple(content["notes"]))
