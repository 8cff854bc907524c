"""What a reader must know before trusting the numbers, and what was checked."""

from collections.abc import Mapping, Sequence

from nnunet_kd.evaluation.report.numbers import Numbers
from nnunet_kd.evaluation.report.optimism import find_exposure
from nnunet_kd.teachers import TeacherModel

FEW_CASES = 6  # below, a two-sided signed-rank test cannot reach p < 0.05


def make_remarks(
    numbers: Numbers,
    models: Mapping[str, Sequence[TeacherModel]],
    predicted: Mapping[str, int],
    references: int,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Warnings, and notes on what was checked or left unchecked.

    Args:
        numbers: the report's.
        models: where they are known.
        predicted: how many of the references each method predicted.
        references: their number.
    """
    total = len(numbers.cases)
    exposures = [find_exposure(name, found, numbers.cases) for name, found in models.items()]
    warnings = [sentence for e in exposures for sentence in e.sentences(total)]
    if total < references:
        missing = ", ".join(f"{name} {references - n}" for name, n in predicted.items() if n < references)
        warnings.append(
            f"All numbers are on the {total} of {references} reference cases that every method predicted (missing: "
            f"{missing}); a method that leaves out hard cases gains by it."
        )
    independent = total if numbers.groups is None else len(set(numbers.groups))
    if independent < FEW_CASES:
        what = "cases" if numbers.groups is None else "groups"
        warnings.append(f"{independent} {what} are too few for the signed-rank test to find any difference at 0.05.")
    notes = []
    if unchecked := [name for name in numbers.methods if name not in models]:
        notes.append(f"Not checked whether {', '.join(unchecked)} trained on evaluated cases: no --model was given.")
    if clean := [e.method for e in exposures if not e.sentences(total)]:
        notes.append(
            f"By the names of the cases, {', '.join(clean)} and their teachers trained on none of the evaluated cases."
        )
    return tuple(warnings), tuple(notes)
