"""Was there something to distil? Compares a student's validation with its teachers' on the same cases."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.utilities.files import load_json_file

SMALL_GAP = 0.005


def case_dice(summary: dict[str, Any]) -> dict[str, float]:
    """Mean foreground Dice of every case in nnU-Net's ``summary.json``; classes that neither mask has left out."""
    result = {}
    for case in summary["metric_per_case"]:
        values = [m["Dice"] for label, m in case["metrics"].items() if label != "0"]
        finite = [v for v in values if v is not None and np.isfinite(v)]
        if finite:
            result[Path(case["prediction_file"]).name] = float(np.mean(finite))
    return result


def compare_validation(student_summary: Path, teachers: Iterable[TeacherModel]) -> list[str]:
    """Lines for the log: Dice of the student and of each teacher on the cases that both validated, and a warning.

    Args:
        student_summary: the student's ``validation/summary.json``.
        teachers: the models that taught it; folds that validated other cases are left out.
    """
    student = case_dice(load_json_file(student_summary))
    lines, gaps = [], []
    for model in teachers:
        for fold in model.folds:
            summary = model.validation_summary(fold)
            theirs = case_dice(summary) if summary is not None else {}
            common = sorted(student.keys() & theirs.keys())
            if common:
                s, t = (float(np.mean([d[c] for c in common])) for d in (student, theirs))
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
