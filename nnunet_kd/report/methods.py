"""The compared methods: folders of predictions, which of them is the ensemble, the student, its twin."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_kd.utilities.errors import UserError

_TWIN = re.compile(r"twin|undistilled|without|no.?kd|hard|baseline|scratch", re.IGNORECASE)
_STUDENT = re.compile(r"student|distill|kd", re.IGNORECASE)
_ENSEMBLE = re.compile(r"ensemble|teachers", re.IGNORECASE)
LONGEST_STEM = 60  # two of them, and what the figure shows, must fit into a file name


@dataclass(frozen=True)
class Method:
    """A name and the folder of its predictions."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Roles:
    """Names of the methods that the headline compares.

    Attributes:
        student: the method that the report is about.
        ensemble: what it shall replace, or None.
        twin: the same network trained without teachers, or None.
    """

    student: str
    ensemble: str | None
    twin: str | None

    @property
    def reference(self) -> str:
        """The method that all others are tested against: the ensemble, or else the twin.

        Raises:
            UserError: when there is neither.
        """
        name = self.ensemble or self.twin
        if name is None:
            raise UserError("--ensemble, --twin: name at least one of the two, the student is compared with it.")
        return name

    def of(self, name: str) -> str | None:
        """``ensemble``, ``student``, ``twin`` or None."""
        return next((role for role in ("ensemble", "student", "twin") if getattr(self, role) == name), None)


def parse_methods(texts: Sequence[str]) -> tuple[Method, ...]:
    """Parses ``NAME=FOLDER``.

    Raises:
        UserError: for a missing name or folder, a name used twice, or fewer than two methods.
    """
    methods: list[Method] = []
    for text in texts:
        name, equals, folder = text.partition("=")
        name = name.strip()
        if not equals or not name or not folder:
            raise UserError(f'--method {text}: expected NAME=FOLDER, for example --method "student=predictions".')
        if name in (m.name for m in methods):
            raise UserError(f"--method {text}: the name {name!r} is used twice; give each method its own.")
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise UserError(f"--method {text}: {path} is not a folder; name the folder of this method's predictions.")
        methods.append(Method(name, path))
    if len(methods) < 2:
        raise UserError("--method: a report compares two methods or more; nnUNetv2_kd evaluate measures a single one.")
    return tuple(methods)


def choose_roles(
    names: Sequence[str], student: str | None = None, ensemble: str | None = None, twin: str | None = None
) -> Roles:
    """Roles as given, the others guessed from the methods' names.

    Without a hint, the first method is the ensemble and the next one without a role the student. A twin is never
    guessed.

    Args:
        names: the methods' names, in order.
        student: name given by ``--student``.
        ensemble: name given by ``--ensemble``.
        twin: name given by ``--twin``.

    Raises:
        UserError: for a role that names no method, or a method with two roles.
    """
    given = {"student": student, "ensemble": ensemble, "twin": twin}
    for role, name in given.items():
        if name is not None and name not in names:
            raise UserError(f"--{role} {name}: no such method; the methods are {', '.join(names)}.")
    named = [name for name in given.values() if name is not None]
    if len(set(named)) < len(named):
        raise UserError("--student, --ensemble, --twin: a method can have one role only.")

    free = [name for name in names if name not in named]
    twin = twin or _take(free, lambda n: _TWIN.search(n))
    ensemble = ensemble or _take(free, lambda n: _ENSEMBLE.search(n))
    student = student or _take(free, lambda n: _STUDENT.search(n))
    if ensemble is None and (twin is None or student is None):
        ensemble = _take(free, lambda n: True)
    if student is None:
        student = _take(free, lambda n: True)
    if student is None:
        raise UserError(f"--student: name one of {', '.join(names)}.")
    return Roles(student, ensemble, twin)


def _take(free: list[str], fits: Callable[[str], object]) -> str | None:
    name = next((n for n in free if fits(n)), None)
    if name is not None:
        free.remove(name)
    return name


def file_stems(names: Sequence[str]) -> dict[str, str]:
    """A distinct, harmless file name for every name."""
    stems: dict[str, str] = {}
    for name in names:
        stem = base = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:LONGEST_STEM] or "method"
        number = 2
        while stem.lower() in (s.lower() for s in stems.values()):
            stem, number = f"{base}_{number}", number + 1
        stems[name] = stem
    return stems
