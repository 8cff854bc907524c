"""A bundle against ``nnUNetv2_predict``: voxels, Dice and seconds, of whole processes on the same images."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nnunet_kd.export.runtime.folder import find_cases
from nnunet_kd.export.runtime.verify import BundleError
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.programs import failure, find_program

LOWEST = {"fp32": 0.9999, "bf16": 0.999, "int8": 0.99}  # share of equal voxels below which no bundle is written


@dataclass(frozen=True)
class Agreement:
    """Two segmentations of the same images.

    Attributes:
        differing: share of all voxels.
        dice: name of a label or region -> mean over the images in which one of the two has it; None where none has.
    """

    differing: float
    dice: dict[str, float | None]

    @property
    def mean_dice(self) -> float | None:
        """Mean over the labels that are somewhere."""
        found = [d for d in self.dice.values() if d is not None]
        return float(np.mean(found)) if found else None


def check_bundle(
    model: TeacherModel, bundle: Path, images: Path, mirroring: bool, reference: Path | None = None
) -> dict[str, Any]:
    """Predicts images with ``nnUNetv2_predict``, with the bundle and, where it is given, with its fp32 twin.

    Returns:
        The entry ``check`` of ``bundle.json``.

    Raises:
        UserError: when there are no images, or a prediction fails.
    """
    ending = model.dataset_json["file_ending"]
    try:
        cases = [c.name for c in find_cases(images, ending)]
    except BundleError as err:
        raise UserError(str(err).replace("-i", "--check")) from None
    with TemporaryDirectory(prefix="nnunet_kd_export_") as scratch:
        stock = (
            *(find_program("nnUNetv2_predict_from_modelfolder"), "-m", str(model.folder)),
            *("-f", *map(str, model.folds), "-chk", model.checkpoint, "-device", "cpu"),
            *(() if mirroring else ("--disable_tta",)),
        )
        commands = {"nnUNetv2_predict": stock, "bundle": (sys.executable, str(bundle))}
        if reference is not None:
            commands["fp32"] = (sys.executable, str(reference))
        seconds = {}
        for name, command in commands.items():
            start = time.monotonic()
            _run((*command, "-i", str(images), "-o", str(Path(scratch, name))), Path(scratch, f"{name}.log"))
            seconds[name] = round(time.monotonic() - start, 2)
        agreement = compare(model, Path(scratch, "nnUNetv2_predict"), Path(scratch, "bundle"), cases)
        result = {
            "images": len(cases),
            "voxels_that_differ": agreement.differing,
            "dice": agreement.dice,
            "seconds": {k: v for k, v in seconds.items() if k != "fp32"},
            "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        }
        if reference is not None:
            result["dice_with_fp32"] = compare(model, Path(scratch, "fp32"), Path(scratch, "bundle"), cases).dice
    return result


def _run(command: Sequence[str], log: Path) -> None:
    with log.open("wb") as output:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT).returncode
    if code:
        raise failure(Path(command[0]).name, code, log)


def compare(model: TeacherModel, one: Path, other: Path, cases: Sequence[str]) -> Agreement:
    """Compares two folders of segmentations of a model's labels or regions."""
    reader, ending = model.plans_manager.image_reader_writer_class(), model.dataset_json["file_ending"]
    names = {n: v for n, v in model.dataset_json["labels"].items() if n not in ("background", "ignore")}
    differing = voxels = 0
    dice: dict[str, list[float]] = {name: [] for name in names}
    for case in cases:
        a, b = (reader.read_seg(str(folder / f"{case}{ending}"))[0] for folder in (one, other))
        differing, voxels = differing + int((a != b).sum()), voxels + a.size
        for name, values in names.items():
            x, y = np.isin(a, values), np.isin(b, values)
            if total := int(x.sum()) + int(y.sum()):
                dice[name].append(2 * int((x & y).sum()) / total)
    return Agreement(differing / voxels, {n: float(np.mean(d)) if d else None for n, d in dice.items()})
