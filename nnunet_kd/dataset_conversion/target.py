"""The new data set's folder: appears under its final name only when it is complete."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import replace_folder, temporary_folder, write_json, writing

SPLITS = "splits_final.json"
LONGEST_NAME = 100  # file systems take 255 bytes, of which the working folder's name needs some for itself


def target_folder(dataset_id: int, name: str) -> Path:
    """``nnUNet_raw/DatasetXXX_NAME``.

    Raises:
        UserError: when the variable is not set or the ID is not one of nnU-Net's.
    """
    if not nnUNet_raw.is_set():
        raise UserError("nnUNet_raw is not set; set it as nnU-Net's documentation says (export nnUNet_raw=FOLDER).")
    if not 1 <= dataset_id <= 999:
        raise UserError(f"-d {dataset_id}: expected a number from 1 to 999.")
    if len(name) > LONGEST_NAME:
        raise UserError(f"--dataset_name {name}: has {len(name)} letters, expected {LONGEST_NAME} at most.")
    return Path(nnUNet_raw) / f"Dataset{dataset_id:03d}_{name}"


def check_target(target: Path, overwrite: bool, splits: list[dict[str, list[str]]], files: Sequence[Path]) -> list[str]:
    """Reasons not to write to ``target``: it exists, is the source, its ID is taken, or its folds are others."""
    problems = []
    if inside := next((f for f in files if f.resolve().is_relative_to(target.resolve())), None):
        problems.append(f"{inside}: belongs to {target}, which would be replaced; convert from somewhere else.")
    if os.path.lexists(target) and not overwrite:
        problems.append(f"{target}: is there already; --overwrite replaces it, -d takes another ID.")
    dataset_id = int(target.name[7:10])
    for name in find_candidate_datasets(dataset_id):
        if name != target.name:
            problems.append(f"-d {dataset_id}: {name} has this ID in one of nnU-Net's folders; take another.")
    there = preprocessed_splits(target.name)
    if there and there.is_file() and not overwrite and _load_splits(there) != splits:
        problems.append(
            f"{there}: holds other folds, which nnU-Net would use; remove it, or replace it with --overwrite."
        )
    return problems


def check_space(target: Path, files: Sequence[Path], link: str | None) -> list[str]:
    """Whether hard links are possible, or copies fit on the disk (by the size of the raw files)."""
    parent = next(p for p in target.absolute().parents if p.exists())
    there = [p for f in files for p in (f.iterdir() if f.is_dir() else [f]) if p.is_file()]
    if link == "hard":
        device = parent.stat().st_dev
        apart = next((p for p in there if p.stat().st_dev != device), None)
        return [f"--link hard: {apart} and {parent} are on different file systems; take --link symbolic."] * bool(apart)
    needed, free = sum(p.stat().st_size for p in there), shutil.disk_usage(parent).free
    if link is None and needed > free:
        return [f"{parent}: about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; --link needs next to none."]
    return []


def preprocessed_splits(name: str) -> Path | None:
    """Where nnU-Net looks for the folds; None when ``nnUNet_preprocessed`` is not set."""
    return Path(nnUNet_preprocessed) / name / SPLITS if nnUNet_preprocessed.is_set() else None


def replace_preprocessed_splits(name: str, splits: list[dict[str, list[str]]]) -> Path | None:
    """Brings folds that nnU-Net has copied from an earlier conversion up to date.

    nnU-Net 2.8.1 copies ``splits_final.json`` from the raw to the preprocessed folder when it plans, and stops when
    there is another one. Where there is none, nothing is done.

    Returns:
        the file that was replaced or removed, if any.
    """
    file = preprocessed_splits(name)
    if file is None or not file.is_file() or _load_splits(file) == splits:
        return None
    if splits:
        write_json(file, splits)
    else:
        file.unlink()
    return file


def _load_splits(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class Staging:
    """A working folder beside the target, which takes the target's name at the end or vanishes.

    A target that is replaced is there, whole, until the new one takes its place. What conversions to the same target
    left when they were killed is removed.
    """

    def __init__(self, target: Path):
        self.target = target
        self._stack = ExitStack()

    def __enter__(self) -> "Staging":
        with writing(self.target.parent):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.folder = self._stack.enter_context(
                temporary_folder(self.target.parent, f"{self.target.name}.converting-")
            )
        return self

    def publish(self) -> None:
        """Gives the folder its final name.

        Raises:
            UserError: when that fails; an earlier data set of this name is back in its place then.
        """
        with writing(self.target):
            replace_folder(self.folder, self.target)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
