"""Markdown tables of what the studies' networks reached on the test cases."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_kd.evaluation.statistics import adjust, compare_paired
from nnunet_kd.evaluation.table import case_values
from nnunet_kd.utilities.summaries import Summary, load_summary


def table(folder: Path, arms: Sequence[str], reference: str, only: str = "") -> str:
    """One row for each arm: mean Dice with each seed, and the paired difference from the reference arm.

    A case counts with its mean over labels and then over the seeds of the arm; the test is over patients.

    Args:
        folder: predictions of one data set, with a folder ``ARM`` or ``ARM-SEED`` for each network.
        arms: their names; ``DATASET/ARM`` of a data set with the same test cases.
        reference: the arm that the others are compared with.
        only: beginning of the names of the cases that count.
    """
    values = {arm: _values(folder, arm, only) for arm in (reference, *arms)}
    cases = _cases(_summaries(folder, reference)[0], only)
    patients = [re.sub(r"_(p\d+|ED|ES)$", "", case) for case in cases]
    for arm in values:
        if _cases(_summaries(folder, arm)[0], only) != cases:
            raise ValueError(f"{arm} and {reference} have different cases")
    comparisons = {
        arm: compare_paired(v.mean(0), values[reference].mean(0), patients)
        for arm, v in values.items()
        if arm != reference
    }
    holm = dict(zip(comparisons, adjust([c.p for c in comparisons.values()]), strict=True))
    lines = [
        f"| arm | Dice of each seed | mean | sd of cases | - {reference}, points (95 %) | cases better | p | p, Holm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in dict.fromkeys((*arms, reference)):
        v = values[arm]
        seeds = ", ".join(f"{x:.4f}" for x in v.mean(1))
        row = f"| {arm} | {seeds} | {v.mean():.4f} | {v.mean(0).std(ddof=1):.4f} "
        if c := comparisons.get(arm):
            row += f"| {100 * c.mean:+.2f} ({100 * c.low:+.2f} to {100 * c.high:+.2f}) "
            row += f"| {c.better} of {c.n_cases} | {c.p:.2g} | {holm[arm]:.2g} |"
        else:
            row += "| | | | |"
        lines.append(row)
    return "\n".join([*lines, "", f"{len(cases)} cases, {len(set(patients))} patients."])


def _summaries(folder: Path, arm: str) -> list[Summary]:
    dataset, _, name = arm.rpartition("/")
    folder = folder.with_name(dataset) if dataset else folder
    files = sorted(folder.glob(f"{name}-[0-9]/summary.json")) or [folder / name / "summary.json"]
    return [load_summary(file) for file in files]


def _cases(summary: Summary, only: str) -> list[str]:
    return [case for case in summary.cases if case.startswith(only)]


def _values(folder: Path, arm: str, only: str) -> np.ndarray:
    """Mean Dice over labels, of shape (seeds, cases)."""
    return np.stack([case_values(s.table, "Dice")[_cases(s, only)] for s in _summaries(folder, arm)])
