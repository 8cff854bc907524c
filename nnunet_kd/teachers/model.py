"""Find and check frozen teachers: trained nnU-Net model folders."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_kd.config import KDConfig, Teacher
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import check_component, file_sha256
from nnunet_kd.utilities.nnunet_files import read_dataset_json, read_plans
from nnunet_kd.utilities.safe_files import load_torch_file
from nnunet_kd.utilities.summaries import Summary, load_summary, validation_file


class NotTrainedError(UserError):
    """A training that a model folder stands for has not been finished, or not begun."""


def load_checkpoint_file(file: Path) -> dict[str, Any]:
    """Loads an nnU-Net checkpoint onto the CPU without running any code that it may hold.

    Raises:
        UserError: when the file is missing, damaged, no checkpoint, or holds objects that no nnU-Net checkpoint holds.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such checkpoint; finish that training or name another checkpoint.")
    checkpoint = load_torch_file(file, "nnU-Net checkpoint")
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint:
        raise UserError(f"{file}: not an nnU-Net checkpoint, it has no 'network_weights'.")
    weights = checkpoint["network_weights"]
    if not isinstance(weights, dict) or not all(isinstance(w, torch.Tensor) for w in weights.values()):
        raise UserError(f"{file}: not an nnU-Net checkpoint, its 'network_weights' are no tensors by name.")
    if not isinstance(checkpoint.get("trainer_name"), str):
        raise UserError(f"{file}: not an nnU-Net checkpoint, it has no 'trainer_name'.")
    axes = checkpoint.get("inference_allowed_mirroring_axes")
    if axes is not None and not (isinstance(axes, list | tuple) and set(axes) <= {0, 1, 2}):
        raise UserError(f"{file}: found inference_allowed_mirroring_axes {axes!r}, expected some of 0, 1, 2.")
    return checkpoint


@dataclass(frozen=True)
class TeacherModel:
    """A trained model folder ``<trainer>__<plans>__<configuration>`` and the folds of it that teach."""

    folder: Path
    configuration: str
    folds: tuple[int | str, ...]
    checkpoint: str = "checkpoint_final.pth"

    @property
    def trainer_name(self) -> str:
        """Name of the trainer, from the folder's name."""
        return self.folder.name.split("__")[0]

    @property
    def plans_name(self) -> str:
        """Name of the plans, from the folder's name."""
        return self.folder.name.split("__")[1]

    @cached_property
    def plans_manager(self) -> PlansManager:
        """The plans that nnU-Net copied into the model folder, checked."""
        return PlansManager(read_plans(self.folder / "plans.json", self.configuration))

    @cached_property
    def configuration_manager(self) -> ConfigurationManager:
        """The configuration that the teacher was trained with."""
        return self.plans_manager.get_configuration(self.configuration)

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """The dataset.json that nnU-Net copied into the model folder, checked."""
        return read_dataset_json(self.folder / "dataset.json")

    def check(self) -> None:
        """Reads plans, dataset.json and the checkpoints of all folds, before nnU-Net does, which runs what they hold.

        Raises:
            UserError: names the file and what is wrong with it.
        """
        _ = self.plans_manager, self.dataset_json
        for fold in self.folds:
            load_checkpoint_file(self.checkpoint_file(fold))

    def checkpoint_file(self, fold: int | str) -> Path:
        """Path of a fold's checkpoint."""
        return self.folder / f"fold_{fold}" / self.checkpoint

    def checkpoint_sha256(self, fold: int | str) -> str:
        """SHA-256 of a fold's checkpoint, hexadecimal."""
        return file_sha256(self.checkpoint_file(fold))

    def validation_summary(self, fold: int | str) -> Summary | None:
        """What a fold reached on its validation cases, or None where nnU-Net did not validate it.

        Raises:
            UserError: when its ``summary.json`` is none.
        """
        file = validation_file(self.folder, fold)
        return load_summary(file) if file.is_file() else None

    def with_folds(self, keep: Sequence[int | str]) -> "TeacherModel":
        """The same model with only those of its folds that are in ``keep``."""
        return TeacherModel(self.folder, self.configuration, tuple(f for f in self.folds if f in keep), self.checkpoint)


def keep_folds(
    models: Iterable[TeacherModel], keep: Callable[[TeacherModel, int | str], bool]
) -> tuple[TeacherModel, ...]:
    """The models with only those of their folds that ``keep`` accepts; models without any are left out."""
    kept = (model.with_folds([f for f in model.folds if keep(model, f)]) for model in models)
    return tuple(model for model in kept if model.folds)


def find_teachers(kd: KDConfig, plans_name: str, configuration: str, dataset_results: Path) -> tuple[TeacherModel, ...]:
    """Resolves the teachers of a ``"kd"`` block to finished model folders, whatever its membership.

    Args:
        kd: the block; an empty list of teachers stands for every finished fold of its default teacher.
        plans_name: of the plans that the block is in; the default teacher has these where ``base_plans`` is not set.
        configuration: of the student, and of the default teacher.
        dataset_results: ``nnUNet_results/DatasetXXX_NAME``.

    Raises:
        NotTrainedError: says which folder, fold or checkpoint was looked for, and the command that makes it.
        UserError: for a model folder that cannot be used.
    """
    default = Teacher(folder=f"{kd.default_teacher}__{kd.base_plans or plans_name}__{configuration}")
    return tuple(find_teacher(t, dataset_results) for t in kd.teachers or (default,))


def find_teacher(teacher: Teacher, dataset_results: Path) -> TeacherModel:
    """The model folder of one teacher, which is named as nnU-Net names it or by its path.

    Raises:
        NotTrainedError, UserError: as :func:`find_model`.
    """
    by_name = re.fullmatch(r"[^/\\]+__[^/\\]+__[^/\\]+", teacher.folder) is not None
    folder = dataset_results / teacher.folder if by_name else Path(teacher.folder).expanduser()
    return find_model(folder, teacher.folds, teacher.checkpoint, "teacher")


def find_model(
    folder: Path,
    folds: Sequence[int | str] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    role: str = "model",
) -> TeacherModel:
    """A finished model folder.

    Args:
        folder: ``TRAINER__PLANS__CONFIGURATION``, anywhere.
        folds: None for every finished fold (``all`` only where no numbered one is finished).
        checkpoint: file name of the checkpoint in each fold.
        role: what a message calls it.

    Raises:
        NotTrainedError: says which folder, fold or checkpoint was looked for, and the command that makes it.
        UserError: when its plans or ``dataset.json`` cannot be used.
    """
    folder = folder.absolute()
    parts = folder.name.split("__")
    if len(parts) == 3:
        fold = "FOLD" if folds is None else str(folds[0]) if folds else "FOLD"
        mend = f"make it with: nnUNetv2_train {folder.parent.name} {parts[2]} {fold} -tr {parts[0]} -p {parts[1]}"
    else:
        mend = "a model folder is named TRAINER__PLANS__CONFIGURATION"
    check_component(checkpoint, f"{role} checkpoint")
    if not _is_folder(folder) or len(parts) != 3:
        raise NotTrainedError(f"{role} {folder}: no such model folder; {mend}.")
    if folds is None:
        found = sorted(p.parent.name.removeprefix("fold_") for p in folder.glob(f"fold_*/{checkpoint}"))
        folds = tuple(int(f) for f in found if f.isdecimal()) or tuple(f for f in found if f == "all")
    model = TeacherModel(folder, parts[2], tuple(folds), checkpoint)
    missing = [str(model.checkpoint_file(f)) for f in folds if not model.checkpoint_file(f).is_file()]
    if missing or not folds:
        what = missing[0] if missing else str(folder / "fold_*" / checkpoint)
        raise NotTrainedError(f"{role} {what}: no finished training; {mend}.")
    _ = model.plans_manager, model.dataset_json  # are they as they should be?
    return model


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that the file system does not take
        return False


def split_folds(text: str, flag: str) -> tuple[str, tuple[int | str, ...] | None]:
    """Folder and folds of ``FOLDER[:FOLDS]``; FOLDS is ``0,1,2`` or ``all``, None when there are none.

    Raises:
        UserError: for folds that are neither; ``flag`` says where they were given.
    """
    folder, colon, folds = text.rpartition(":")
    if not colon or set(folds) & set("/\\"):  # the colon of a Windows drive
        return text, None
    if not re.fullmatch(r"all|\d+(,\d+)*", folds):
        raise UserError(f"{flag} {text}: found the folds {folds!r}, expected for example :0,1,2 or :all.")
    return folder, tuple(dict.fromkeys(f if f == "all" else int(f) for f in folds.split(",")))
