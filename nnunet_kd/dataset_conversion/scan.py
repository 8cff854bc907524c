"""Finds the cases in a raw folder, and notes whatever is missing, unknown or ambiguous."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_kd.dataset_conversion.cases import ROLES, Case, Role
from nnunet_kd.utilities.files import list_folder

ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".png", ".tif", ".tiff")


def split_ending(name: str) -> tuple[str, str]:
    """``("Patient_01", ".nii.gz")`` of ``"Patient_01.nii.gz"``; the ending is empty where it is not an image's."""
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)], ending
    return name, ""


def children(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, without the operating system's own files (``.DS_Store``, ``__MACOSX``)."""
    return [p for p in list_folder(folder) if not p.name.startswith("__MACOSX")] if folder.is_dir() else []


def walk_images(folder: Path) -> Iterator[Path]:
    """Every image file below a folder, sorted."""
    for path in children(folder):
        if path.is_dir():
            yield from walk_images(path)
        elif split_ending(path.name)[1]:
            yield path


@dataclass
class Scan:
    """Cases, problems and notes that the search of a raw folder yields.

    Args:
        root: the data set's folder.
        allow_missing: cases of which something is missing are left out with a note; else they are problems.
        allow_extra: image files that the layout does not know are left out with a note; else they are problems.
    """

    root: Path
    allow_missing: bool = False
    allow_extra: bool = False
    cases: dict[Role, list[Case]] = field(default_factory=lambda: {role: [] for role in ROLES})
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: set[Path] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)

    def problem(self, text: str) -> None:
        """Notes what makes a conversion impossible."""
        self.problems.append(text)

    def missing(self, text: str) -> None:
        """Notes what is absent: a problem unless the user accepts an incomplete copy."""
        (self.notes if self.allow_missing else self.problems).append(text)

    def extra(self, text: str) -> None:
        """Notes what should not be there: a problem unless the user accepts it."""
        (self.notes if self.allow_extra else self.problems).append(text)

    def folder(self, path: str, below: Path | None = None) -> Path:
        """A folder below the root by its name, whatever its case; need not exist."""
        current = below or self.root
        for part in path.split("/"):
            current = next((p for p in children(current) if p.name.lower() == part.lower()), current / part)
        return current

    def folders(self, below: Path, pattern: str) -> Iterator[tuple[Path, re.Match[str]]]:
        """Folders in ``below`` whose whole name matches, whatever its case."""
        for path in children(below):
            if path.is_dir() and (match := re.fullmatch(pattern, path.name, re.IGNORECASE)):
                yield path, match

    def images(self, below: Path, pattern: str, recursive: bool = False) -> Iterator[tuple[Path, re.Match[str]]]:
        """Image files whose name without ending matches, whatever its case; one file for each name and folder."""
        files = list(walk_images(below)) if recursive else [p for p in children(below) if split_ending(p.name)[1]]
        stems: dict[Path, Path] = {}
        for path in files:
            stem = split_ending(path.name)[0]
            if match := re.fullmatch(pattern, stem, re.IGNORECASE):
                self.known.add(path)
                twin = stems.setdefault(path.with_name(stem.lower()), path)
                if twin != path:
                    self.problem(f"{path}: {twin.name} is there too; remove one of the two.")
                else:
                    yield path, match

    def image(self, below: Path, stem: str, what: str) -> Path | None:
        """The image file of that name, whatever its case and ending; None, and noted, when it is missing."""
        found = [path for path, _ in self.images(below, re.escape(stem))]
        if not found:
            self.missing(f"{below / stem}: {what} is missing.")
            return None
        return found[0]

    def leave_out(self, files: Iterable[Path]) -> None:
        """Files that the layout knows and the data set does not need."""
        self.known.update(files)

    def drop(self, folder: Path, name: str) -> None:
        """Leaves out a case on the user's wish; ``folder`` is its own."""
        self.dropped.add(name)
        self.leave_out(walk_images(folder))

    def add(
        self, role: Role, name: str, images: Sequence[Path | None], label: Path | None = None, group: str = ""
    ) -> None:
        """Adds a case; one of which something is missing was noted already and is left out."""
        there = tuple(i for i in images if i is not None)
        self.known.update(there, [label] if label else [])
        if len(there) == len(images) and (label is not None or role != "train"):
            self.cases[role].append(Case(name, there, label, group or name))

    def finish(self, expected: Mapping[Role, int | Sequence[str]], extras: bool = True) -> None:
        """Compares with what the full data set holds, and notes duplicate names and unknown files."""
        for role in ROLES:
            names = [c.name for c in self.cases[role]]
            for name, count in sorted(Counter(names).items()):
                if count > 1:
                    where = ", ".join(str(c.images[0]) for c in self.cases[role] if c.name == name)
                    self.problem(f"{where}: {count} {role} cases would be called {name}; keep one of them.")
            if role in expected:
                self._compare(role, expected[role])
        if not self.cases["train"]:
            self.problem(f"{self.root}: no training case with a label was found.")
        if extras:
            for path in walk_images(self.root):
                if path not in self.known:
                    self.extra(f"{path}: is not part of the data set (--allow_extra leaves such files out).")

    def _compare(self, role: Role, expected: int | Sequence[str]) -> None:
        if isinstance(expected, int):
            number = len(self.cases[role])
            text = f"{self.root}: {number} {role} cases, the full data set has {expected}"
            if number < expected:
                self.missing(f"{text} (--allow_missing accepts that).")
            elif number > expected:
                self.extra(f"{text} (--allow_extra accepts that).")
            return
        names = {c.group for c in self.cases[role]}
        if absent := sorted(set(expected) - names - self.dropped):
            self.missing(
                f"{self.root}: {len(absent)} of {len(expected)} {role} cases are missing or incomplete: "
                f"{abridge(absent)} (--allow_missing leaves them out)."
            )
        for name in sorted(names - set(expected)):
            self.extra(f"{self.root}: {role} case {name} is not part of the data set (--allow_extra accepts it).")


def abridge(names: Sequence[str], most: int = 12) -> str:
    """A list of names for a message, the middle left out when it is long."""
    names = list(names)
    if len(names) > most:
        names = [*names[: most - 1], "...", names[-1]]
    return ", ".join(names)
