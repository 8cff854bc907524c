"""Students of equal cost, ranked by what they are worth before any training: seconds instead of trainings."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_kd.config import KDConfig
from nnunet_kd.inheritance.pairs import CannotInheritError
from nnunet_kd.inheritance.start import best_member, inherit, named_member
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.planning.student import StudentSpec, format_student
from nnunet_kd.teachers.model import find_teachers
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError

MEASURED = 5  # every fifth case is measured, the others are reconstructed on
SHAPES: tuple[tuple[float, int | None], ...] = ((1.0, None), (1.0, 1), (0.5, 1))  # blocks=, decoder=


@dataclass(frozen=True)
class Ranked:
    """A candidate and the mean Dice of its untrained reconstruction; 1 for a copy of the teacher."""

    spec: StudentSpec
    dice: float


def shapes(spec: StudentSpec) -> list[StudentSpec]:
    """Wide and shallow, narrow and deep: variants of nnU-Net's own networks in what the user has left open."""
    if spec.family is not None or spec.blocks != 1 or spec.decoder_convolutions is not None:
        return [spec]
    return [dataclasses.replace(spec, blocks=blocks, decoder_convolutions=decoder) for blocks, decoder in SHAPES]


def untrained_dice(model: PlannedModel, config: KDConfig, preprocessed: Path, results: Path) -> float:
    """Mean Dice, on patches, of a student as a reconstruction of its best teacher.

    Args:
        model: the student, by KD plans.
        config: names the teachers.
        preprocessed: ``nnUNet_preprocessed/DatasetXXX_NAME``.
        results: ``nnUNet_results/DatasetXXX_NAME``.

    Raises:
        UserError: without a finished teacher, preprocessed data, or for a student that cannot inherit.
    """
    space = StudentSpace(model.plans, model.configuration, model.dataset_json, preprocessed, None)
    if config.student.inherit_from:
        member = named_member(config.student.inherit_from, results)
    else:
        member = best_member(find_teachers(config, model.plans.plans_name, model.configuration, results))
    cases = list(space.dataset.identifiers)
    for case in cases:
        space.load_case(case)  # refuses what nnU-Net's data loader would run
    folder = str(space.folder)
    dataset = infer_dataset_class(folder)
    measured = cases[::MEASURED]
    rest = [c for c in cases if c not in measured] or cases
    datasets = dataset(folder, rest), dataset(folder, measured)
    try:
        scores = inherit(model.build(), member, space, *datasets, torch.device("cpu"), progress=False)
    except CannotInheritError as err:
        raise UserError(f"--rank dice: the student cannot inherit, {err}; leave --rank out.") from err
    return 1.0 if scores is None else float(scores.student.nanmean())


def rank(candidates: Sequence[StudentSpec], dice: Callable[[StudentSpec], float]) -> list[Ranked]:
    """Candidates with their Dice, the best first."""
    return sorted((Ranked(c, dice(c)) for c in candidates), key=lambda r: -r.dice)


def format_ranked(ranked: Sequence[Ranked]) -> str:
    """The candidates as aligned text; the first one is marked."""
    lines = ["Candidates by the Dice of the untrained student, on patches of every fifth case:"]
    for i, r in enumerate(ranked):
        lines.append(f"{' ' if i else '*'} {format_student(r.spec):<44} {r.dice:.3f}")
    return "\n".join(lines)
