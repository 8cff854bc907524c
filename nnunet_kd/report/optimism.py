"""Did a model, or the teachers of a student, train on the evaluated cases? Then its results are too good."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed

from nnunet_kd.config import KDConfig
from nnunet_kd.evaluation.table import case_name
from nnunet_kd.inheritance.start import named_member
from nnunet_kd.teachers.model import TeacherModel, find_teachers
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import check_component, load_json_file
from nnunet_kd.utilities.nnunet_files import read_splits

# Cross teaching's teachers are trained beside the student, on the same cases.
_WITHOUT_TEACHERS = "nnUNetTrainerKDCrossTeaching"
_TWIN = "nnUNetTrainerKDTeacher"


@dataclass(frozen=True)
class Exposure:
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
        said = []
        if self.trained_on:
            said.append(
                f"Optimistic: {self.method} trained on {_count(self.trained_on, total)}; what is measured on them is "
                "memory as well as skill."
            )
        if self.taught_by:
            said.append(
                f"Optimistic: teachers of {self.method} trained on {_count(self.taught_by, total)}; what they know of "
                "them may have reached the student through the soft labels."
            )
        if self.unknown:
            said.append(f"Not checked whether {self.method} has seen the evaluated cases: {self.unknown}")
        return said


def find_exposure(method: str, models: Sequence[TeacherModel], cases: Sequence[str]) -> Exposure:
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
        seen = training_cases(model.folder, model.folds)
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
    return Exposure(method, trained_on, taught_by, " ".join(dict.fromkeys(unknown)))


def training_cases(folder: Path, folds: Sequence[int | str]) -> set[str] | None:
    """Cases that any of the folds of a model trained on, or None where nothing says so.

    nnU-Net's ``splits_final.json`` and the data set's list of references know it. Without the preprocessed data, what
    the other folds of the folder have validated is what these trained on; fold ``all`` validates on its training cases.
    """
    seen: set[str] = set()
    for fold in folds:
        cases = _from_splits(folder, fold)
        if cases is None:
            cases = _from_validations(folder, fold)
        if cases is None:
            return None
        seen |= cases
    return seen


def _from_splits(folder: Path, fold: int | str) -> set[str] | None:
    if not nnUNet_preprocessed.is_set():
        return None
    dataset_name = load_json_file(folder / "plans.json").get("dataset_name")
    check_component(dataset_name, f"{folder / 'plans.json'}: dataset_name")
    preprocessed = Path(nnUNet_preprocessed) / str(dataset_name)
    if str(fold) == "all":
        references = preprocessed / "gt_segmentations"
        return {case_name(f.name) for f in references.iterdir() if f.is_file()} if references.is_dir() else None
    splits = read_splits(preprocessed / "splits_final.json")
    return set(splits[int(fold)]["train"]) if int(fold) < len(splits) else None


def _from_validations(folder: Path, fold: int | str) -> set[str] | None:
    ending = load_json_file(folder / "dataset.json").get("file_ending", ".nii.gz")
    check_component(ending, f"{folder / 'dataset.json'}: file_ending")

    def validated(name: str) -> set[str]:
        return {f.name.removesuffix(ending) for f in (folder / name / "validation").glob(f"*{ending}")}

    if str(fold) == "all":
        return validated("fold_all") or None
    others = [f.name for f in folder.glob("fold_[0-9]*") if f.name != f"fold_{fold}"]
    return set().union(*(validated(name) for name in others)) or None


def _teachers(model: TeacherModel) -> list[TeacherModel]:
    """The teachers of a model, as its own plans name them; none when it was not distilled."""
    trainer, _, configuration = model.folder.name.split("__")
    if not trainer.startswith("nnUNetTrainerKD") or trainer == _WITHOUT_TEACHERS:
        return []
    plans = model.plans_manager.plans
    kd = KDConfig.from_plans(plans)
    # The undistilled twin shares the student's plans, but has no teachers unless it inherits from one.
    if trainer == _TWIN and (kd.student.twin_start == "random" or kd.student.start == "random"):
        return []
    if kd.ensemble.from_folder is not None:
        raise UserError(f"its soft labels are probability maps from {kd.ensemble.from_folder}")
    default = f"{kd.default_teacher}__{kd.base_plans or plans.get('plans_name')}__{configuration}"
    teachers = find_teachers(kd.teachers, model.folder.parent, default)
    inherited = []
    if kd.student.start == "inherit" and kd.student.inherit_from:
        member = named_member(kd.student.inherit_from, model.folder.parent)
        inherited = [member.model.with_folds([member.fold])]
    if kd.ensemble.membership != "same_fold":
        return teachers + inherited
    mine = [training_cases(model.folder, [f]) for f in model.folds]
    kept = (t.with_folds([f for f in t.folds if training_cases(t.folder, [f]) in mine]) for t in teachers)
    return [t for t in kept if t.folds] + inherited


def _count(seen: Sequence[str], total: int) -> str:
    return f"all {total} evaluated cases" if len(seen) == total else f"{len(seen)} of the {total} evaluated cases"
