"""Where the numbers come from: files and their hashes, plans and kd blocks, versions, command, date."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nnunet_kd
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.files import file_sha256

PACKAGES = ("nnunetv2", "torch", "numpy", "scipy", "SimpleITK", "matplotlib")


@dataclass(frozen=True)
class Files:
    """A folder and the hash of the files in it that were used.

    Attributes:
        folder: as it was named.
        number: of files.
        sha256: of the lines ``<sha256>  <name>`` of all of them, sorted, as ``sha256sum`` prints them.
    """

    folder: str
    number: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """A trained model folder that made predictions.

    Attributes:
        method: the method's name.
        folder: as it was named.
        folds: that predict.
        plans: name of the plans.
        plans_sha256: of its ``plans.json``.
        checkpoints: SHA-256 of each fold's checkpoint.
        kd: the ``"kd"`` block of its plans, or None.
    """

    method: str
    folder: str
    folds: tuple[str, ...]
    plans: str
    plans_sha256: str
    checkpoints: Mapping[str, str]
    kd: Mapping[str, Any] | None


@dataclass(frozen=True)
class Provenance:
    """Everything needed to make the report again."""

    date: str
    command: tuple[str, ...]
    python: str
    machine: str
    versions: Mapping[str, str]
    references: Files
    predictions: Mapping[str, Files]
    models: tuple[Model, ...]


def describe_files(folder: Path, names: Sequence[str]) -> Files:
    """Hashes the named files of a folder."""
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in sorted(names)]
    return Files(str(folder), len(lines), hashlib.sha256("".join(lines).encode()).hexdigest())


def describe_model(method: str, model: TeacherModel) -> Model:
    """Plans, ``"kd"`` block and checkpoints of a finished model folder."""
    plans = model.plans_manager.plans
    return Model(
        method,
        str(model.folder),
        tuple(str(f) for f in model.folds),
        str(plans.get("plans_name", "")),
        file_sha256(model.folder / "plans.json"),
        {str(f): model.checkpoint_sha256(f) for f in model.folds},
        plans.get("kd"),
    )


def describe_run(
    arguments: Sequence[str], references: Files, predictions: Mapping[str, Files], models: Sequence[Model]
) -> Provenance:
    """Puts date, command, machine and versions beside the files.

    Args:
        arguments: the command line.
        references: the reference segmentations.
        predictions: of each method.
        models: where they are known.
    """
    return Provenance(
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        tuple(arguments),
        platform.python_version(),
        f"{platform.system()} {platform.machine()}",
        {"nnunet_kd": nnunet_kd.__version__, **{name: version(name) for name in PACKAGES}},
        references,
        predictions,
        tuple(models),
    )
