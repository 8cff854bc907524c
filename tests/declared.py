"""Runs Python code with those installed packages alone that the project's metadata ask for, with some extras or none.

A test environment has more than a user's: what is imported without being asked for is found nowhere else.

    python -m tests.declared EXTRAS MODULE [ARGUMENT ...]     # EXTRAS: names with commas between them, or "-"
"""

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from types import ModuleType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "nnunet-kd"


def declared(extras: Sequence[str]) -> set[str]:
    """Canonical names of the distributions that the project needs, and that these need, as far as they are there."""
    todo, seen = [(PROJECT, frozenset(extras))], set()
    while todo:
        item = name, wanted = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen}


class Finder:
    """Python's own finder, blind to all else."""

    find_distributions = staticmethod(PathFinder.find_distributions)

    def __init__(self, extras: Sequence[str]):
        """Takes the metadata of what is installed."""
        allowed = declared(extras) | {"pip", "setuptools"}
        packages = packages_distributions()
        self.hidden = {p for p, owners in packages.items() if not allowed & set(map(canonicalize_name, owners))}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None for what is not asked for, so that whoever looks whether a package is there sees none."""
        return None if name.partition(".")[0] in self.hidden else PathFinder.find_spec(name, path, target)


def hide(extras: Sequence[str]) -> None:
    """Hides the other packages from this process."""
    sys.meta_path[sys.meta_path.index(PathFinder)] = Finder(extras)  # type: ignore[call-overload]


if __name__ == "__main__":
    hide([] if sys.argv[1] == "-" else sys.argv[1].split(","))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
