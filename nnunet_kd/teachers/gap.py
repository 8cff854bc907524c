"""Was there something to distil? Compares a student's validation with its teachers' on the same cases."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.summaries import Summary, load_summary

SMALL_GAP = 0.005


def case_dice(summary: Summary) -> pd.Series:
    """Mean foreground Dice of every case; classes that neither mask has left out, and cases without any."""
    dice = summary.table[summary.table["metric"] == "Dice"]
    return dice.groupby("case", observed=True)["value"].mean().dropna()


def compare_validation(student_summary: Path, teachers: Iterable[TeacherModel]) -> list[str]:
    """Lines for the log: Dice of the student and of each teacher on the cases that both validated, and a warning.

    Args:
        student_summary: the student's ``validation/summary.json``.
        teachers: the models that taught it; folds that validated other cases are left out.
    """
    student = case_dice(load_summary(student_summary))
    lines, gaps = [], []
    for model in teachers:
        for fold in model.folds:
            summary = model.validation_summary(fold)
            if summary is None:
                continue
            teacher = case_dice(summary)
            common = sorted({*student.index} & {*teacher.index})
            if common:
                s, t = (float(dice[common].mean()) for dice in (student, teacher))
                gaps.append(t - s)
                lines.append(
                    f"Validation Dice on the same {len(common)} cases: student {s:.4f}, {model.folder.name} fold "
                    f"{fold} {t:.4f}"
                )
    if gaps and max(gaps) < SMALL_GAP:
        lines.append(
            f"WARNING: no teacher is more than {SMALL_GAP} Dice better than this student: there was little to distil. "
            "Train the "
            "teachers longer, add folds, or make the student smaller."
        )
    return lines
