"""What a reader must know before trusting the numbers, and what was checked."""

from collections.abc import Mapping, Sequence

from nnunet_kd.evaluation.statistics import Significance
from nnunet_kd.report.formats import probability
from nnunet_kd.report.leakage import find_leakage
from nnunet_kd.report.numbers import Numbers
from nnunet_kd.teachers.model import TeacherModel


def make_remarks(
    numbers: Numbers,
    models: Mapping[str, Sequence[TeacherModel]],
    predicted: Mapping[str, int],
    references: int,
    significance: Significance,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Warnings, and notes on what was checked or left unchecked.

    Args:
        numbers: the report's.
        models: where they are known.
        predicted: how many of the references each method predicted.
        references: their number.
        significance: how p-values are judged.
    """
    total = len(numbers.cases)
    leakages = [find_leakage(name, folders, numbers.cases) for name, folders in models.items()]
    warnings = [*_failures(numbers), *(sentence for found in leakages for sentence in found.sentences(total))]
    if total < references:
        missing = ", ".join(f"{name} {references - n}" for name, n in predicted.items() if n < references)
        warnings.append(
            f"All numbers are on the {total} of {references} reference cases that every method predicted (missing: "
            f"{missing}); a method that leaves out hard cases gains by it."
        )
    if too_few := _too_few(numbers, significance):
        warnings.append(too_few)
    notes = []
    if unchecked := [name for name in numbers.methods if name not in models]:
        notes.append(f"Not checked whether {', '.join(unchecked)} trained on evaluated cases: no --model was given.")
    if clean := [found.method for found in leakages if not found.sentences(total)]:
        notes.append(
            f"By the names of the cases, {', '.join(clean)} and their teachers trained on none of the evaluated cases."
        )
    return tuple(warnings), tuple(notes)


def _failures(numbers: Numbers) -> list[str]:
    """Which structures a method misses or invents altogether: what no mean distance shows."""
    sentences = []
    for name, found in numbers.structures.groupby("method", observed=True):
        rows = list(found.itertuples())
        parts = [f"misses {r.label} altogether in {r.missed} of {r.present} cases" for r in rows if r.missed]
        parts += [f"invents {r.label} in {r.invented} of {r.absent} cases without it" for r in rows if r.invented]
        if parts:
            sentences.append(f"{name} {', '.join(parts)}.")
    if sentences:
        sentences[-1] += (
            " There are no distances there, and comparisons of distances leave them out: look at this first."
        )
    return sentences


def _too_few(numbers: Numbers, significance: Significance) -> str | None:
    """Whether even the clearest difference would not be significant: all cases on one side have p = 2 / 2^n."""
    what, n = ("cases", len(numbers.cases)) if numbers.groups is None else ("groups", len(set(numbers.groups)))
    tests = (numbers.tests["metric"] == numbers.shown[0]).sum() if significance.correction else 1
    smallest = min(1.0, tests * 2.0 ** (1 - n))
    if smallest < significance.level:
        return None
    corrected = f", corrected for {tests} tests," if tests > 1 else ""
    return (
        f"{n} {what} are too few for any difference to be significant at {significance.level:g}: the smallest possible "
        f"p{corrected} is {probability(smallest)}."
    )
