"""Leakage: did a model, or the teachers of a student, train on the evaluated cases? Then its results are too good."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed

from nnunet_kd.config import KDConfig
from nnunet_kd.inheritance.start import named_member
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.loading import find_trainer
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.trainers.base import nnUNetTrainerKDBase
from nnunet_kd.trainers.student import nnUNetTrainerKDStudent
from nnunet_kd.utilities.errors import UserError


@dataclass(frozen=True)
class Leakage:
    """What is known of a model and the evaluated cases.

    Attributes:
        method: the method's name.
        trained_on: evaluated cases that the model itself trained on.
        taught_by: evaluated cases that teachers of the model trained on, and it did not.
        unknown: why something could not be checked, or empty.
    """

    method: str
    trained_on: tuple[str, ...]
    taught_by: tuple[str, ...]
    unknown: str

    def sentences(self, total: int) -> list[str]:
        """Warnings for a reader; none when all was checked and nothing was seen."""
        sentences = []
        if self.trained_on:
            sentences.append(
                f"Leakage: {self.method} trained on {_count(self.trained_on, total)}; what is measured on them is "
                "memory as well as skill."
            )
        if self.taught_by:
            sentences.append(
                f"Leakage: teachers of {self.method} trained on {_count(self.taught_by, total)}; what they know of "
                "them may have reached the student through the soft labels."
            )
        if self.unknown:
            sentences.append(f"Not checked whether {self.method} has seen the evaluated cases: {self.unknown}")
        return sentences


def find_leakage(method: str, models: Sequence[TeacherModel], cases: Sequence[str]) -> Leakage:
    """Compares the names of the evaluated cases with those that a method's models and their teachers trained on.

    Args:
        method: the method's name.
        models: its model folders and the folds that predict.
        cases: names of the evaluated cases.
    """
    unknown: list[str] = []
    own: set[str] = set()
    taught: set[str] = set()

    def add(to: set[str], model: TeacherModel, role: str) -> None:
        seen = training_cases(model)
        if seen is None:
            unknown.append(f"the training cases of its {role} {model.folder.name} are not on this machine.")
        to |= seen or set()

    for model in models:
        add(own, model, "model")
        try:
            for teacher in _teachers(model):
                add(taught, teacher, "teacher")
        except UserError as err:
            unknown.append(f"its teachers were not found ({str(err).rstrip('.')}).")
    trained_on = tuple(c for c in cases if c in own)
    taught_by = tuple(c for c in cases if c in taught and c not in trained_on)
    return Leakage(method, trained_on, taught_by, " ".join(dict.fromkeys(unknown)))


def training_cases(model: TeacherModel) -> set[str] | None:
    """Cases that any of the folds of a model trained on, or None where they are not known.

    The preprocessed data and their splits know it. Without them, what the other folds of the folder have validated is
    what these trained on; fold ``all`` validates on its training cases.
    """
    ensemble = TeachingEnsemble(KDConfig(), _space(model), (model,), None)
    seen: set[str] = set()
    for fold in model.folds:
        try:
            seen |= ensemble.training_cases(model.plans_manager.dataset_name, fold)
        except UserError:
            cases = _from_validations(model, fold)
            if not cases:
                return None
            seen |= cases
    return seen


def _from_validations(model: TeacherModel, fold: int | str) -> set[str]:
    ending = model.dataset_json["file_ending"]
    folders = [f.name for f in model.folder.glob("fold_[0-9]*") if f.name != f"fold_{fold}"]
    if fold == "all":
        folders = ["fold_all"]
    files = (file for name in folders for file in (model.folder / name / "validation").glob(f"*{ending}"))
    return {file.name.removesuffix(ending) for file in files}


def _space(model: TeacherModel) -> StudentSpace:
    """The data that a model was trained with; where they are not known, its own folder, which holds none."""
    name = model.plans_manager.dataset_name
    preprocessed = Path(nnUNet_preprocessed) / name if nnUNet_preprocessed.is_set() else model.folder
    return StudentSpace(model.plans_manager, model.configuration, model.dataset_json, preprocessed, None)


def _teachers(model: TeacherModel) -> list[TeacherModel]:
    """The teachers of a model, as its own plans name them; none when it was not distilled."""
    kd = KDConfig.from_plans(model.plans_manager.plans)
    if not _was_taught(model, kd):
        return []
    if kd.ensemble.from_folder is not None:
        raise UserError(f"its soft labels are probability maps from {kd.ensemble.from_folder}")
    results = model.folder.parent
    folds = model.folds if kd.ensemble.membership == "same_fold" else (None,)
    teachers = [m for f in folds for m in TeachingEnsemble.resolve(kd, _space(model), results, f).models]
    if kd.student.start == "inherit" and kd.student.inherit_from:
        member = named_member(kd.student.inherit_from, results)
        teachers.append(member.model.with_folds([member.fold]))
    return teachers


def _was_taught(model: TeacherModel, kd: KDConfig) -> bool:
    """Whether a model learned, or inherited, from teachers.

    The undistilled twin shares the student's plans; it has teachers only when it inherits from one.

    Raises:
        UserError: for plans of this package and a trainer that cannot be asked.
    """
    try:
        trainer = find_trainer(model.trainer_name)
    except UserError:  # of a package that is not installed
        if "kd" in model.plans_manager.plans:
            raise
        return False
    if issubclass(trainer, nnUNetTrainerKDStudent):
        return trainer.source_for(kd).has_teachers
    twin_inherits = kd.student.twin_start == "same" and kd.student.start != "random"
    return twin_inherits and issubclass(trainer, nnUNetTrainerKDBase)


def _count(seen: Sequence[str], total: int) -> str:
    return f"all {total} evaluated cases" if len(seen) == total else f"{len(seen)} of the {total} evaluated cases"
