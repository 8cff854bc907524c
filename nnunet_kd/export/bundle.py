"""Writes bundles, whole or not at all."""

import datetime
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import nnunet_kd
from nnunet_kd.export.network import ONNX, OPENVINO, load_folds, quantise, write_networks
from nnunet_kd.export.packages import missing_packages
from nnunet_kd.export.runtime.description import Description
from nnunet_kd.export.runtime.folder import find_cases
from nnunet_kd.export.runtime.images import open_reader
from nnunet_kd.export.runtime.predictor import Predictor
from nnunet_kd.export.runtime.verify import DESCRIPTION, FORMAT, BundleError, file_sha256, verify
from nnunet_kd.export.templates import DOCKERFILE, MAIN, README, requirements
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import replace_folder, restore_replaced, temporary_folder

RUNTIME = "kd_bundle"


@dataclass(frozen=True)
class Settings:
    """What of a model is exported, and how.

    Attributes:
        precision: fp32, bf16 or int8.
        mirroring: the bundle mirrors along the axes that the checkpoint allows.
        calibration: folder of images for int8.
    """

    precision: str = "fp32"
    mirroring: bool = True
    calibration: Path | None = None


def check_packages() -> None:
    """Raises:
    UserError: when the packages of the extra ``export`` are missing.
    """
    if missing := missing_packages():
        raise UserError(f"export needs {' and '.join(missing)}; install them with: pip install 'nnunet-kd[export]'.")


@contextmanager
def new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside ``target`` that takes its place when the block ends without an error, and else vanishes.

    Raises:
        UserError: when ``target`` is there already and may not be replaced, or cannot be written.
    """
    restore_replaced(target)
    if os.path.lexists(target):
        if not overwrite:
            raise UserError(f"-o {target}: exists; choose another folder, or add --overwrite.")
        if not (target / DESCRIPTION).is_file():
            raise UserError(f"-o {target}: is no bundle and is not overwritten; choose another folder.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent, f"{target.name}.") as temporary:
            yield temporary
            replace_folder(temporary, target)
    except OSError as err:
        raise UserError(f"-o {target}: cannot be written ({err.strerror or err}).") from err


def write_bundle(model: TeacherModel, description: dict[str, Any], settings: Settings, folder: Path) -> None:
    """Fills an empty folder with the bundle of a model.

    Args:
        model: the model folder.
        description: from :func:`~nnunet_kd.export.describe.describe`.
        settings: what of it is exported.
        folder: where the files go.

    Raises:
        UserError: for what cannot be exported.
    """
    network, axes = load_folds(model)
    part = description["network"] | {
        "files": {"openvino": OPENVINO} if settings.precision == "int8" else {"openvino": OPENVINO, "onnx": ONNX},
        "precision": settings.precision,
        "mirror_axes": list(axes) if settings.mirroring else [],
        "folds": list(model.folds),
    }
    write_networks(network, part["inputs"], part["patch_size"], folder, str(model.folder))
    package = importlib.util.find_spec("nnunet_kd.export.runtime")
    assert package is not None
    assert package.origin is not None
    shutil.copytree(
        Path(package.origin).parent, folder / RUNTIME, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )
    reader = description["image"]["reader"]
    texts = {
        "__main__.py": MAIN,
        "requirements.txt": requirements(reader, description["image"]["file_ending"]),
        "Dockerfile": DOCKERFILE,
        "README.md": README,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    description = description | {"network": part, "provenance": _provenance(model)}
    if settings.precision == "int8":
        _write_description(folder, description | {"network": part | {"precision": "fp32"}})
        assert settings.calibration is not None
        quantise(folder, calibration_patches(folder, settings.calibration))
    _write_description(folder, description)
    verify(folder)


def calibration_patches(bundle: Path, images: Path) -> list[np.ndarray]:
    """Windows (1, inputs, *patch) of images, prepared as the bundle prepares them.

    Raises:
        UserError: when there are no images, or one cannot be read.
    """
    patches: list[np.ndarray] = []
    try:
        predictor = Predictor(bundle, Description.from_json(verify(bundle)), mirroring=False)
        reader = open_reader(predictor.bundle.reader)
        network = predictor.network

        def keep(patch: np.ndarray) -> np.ndarray:
            patches.append(patch.copy())
            return network(patch)

        predictor.network = keep
        for case in find_cases(images, predictor.bundle.file_ending):
            voxels, image = reader.read(case.files)
            predictor.predict(voxels, image.spacing)
    except BundleError as err:
        raise UserError(f"--calibrate {images}: {err}.") from err
    return patches


def add_check(folder: Path, check: dict[str, Any]) -> None:
    """Writes what a check measured into a bundle."""
    content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    _write_description(folder, content | {"check": check})


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    """``bundle.json``, with size and checksum of every other file."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.name != DESCRIPTION)
    listed = {
        f.relative_to(folder).as_posix(): {"bytes": f.stat().st_size, "sha256": file_sha256(f)}
        for f in files
        if "__pycache__" not in f.parts
    }
    content = {
        "format": FORMAT,
        "files": listed,
        **{k: v for k, v in description.items() if k not in ("format", "files")},
    }
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")


def _provenance(model: TeacherModel) -> dict[str, Any]:
    dataset_json = model.dataset_json
    packages = ("nnunetv2", "torch", "openvino", "numpy", "scipy")
    return {
        "model": model.folder.name,
        "dataset": model.plans_manager.dataset_name,
        "checkpoints": {str(f): model.checkpoint_sha256(f) for f in model.folds},
        "licence": dataset_json.get("licence", dataset_json.get("license")),
        "exported": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {"nnunet_kd": nnunet_kd.__version__, "python": sys.version.split()[0]}
        | {p: version(p) for p in packages},
    }


def folds_in_words(folds: Sequence[int | str]) -> str:
    """``fold 0`` or ``folds 0, 1``."""
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"
