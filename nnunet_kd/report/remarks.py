"""What a reader must know before trusting the numbers, and what was checked."""

from collections.abc import Mapping, Sequence

from nnunet_kd.evaluation.statistics import Significance
from nnunet_kd.report.formats import probability
from nnunet_kd.report.numbers import Numbers
from nnunet_kd.report.optimism import find_exposure
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
    exposures = [find_exposure(name, found, numbers.cases) for name, found in models.items()]
    warnings = [*_failures(numbers), *(sentence for e in exposures for sentence in e.sentences(total))]
    if total < references:
        missing = ", ".join(f"{name} {references - n}" for name, n in predicted.items() if n < references)
        warnings.append(
            f"All numbers are on the {total} of {references} reference cases that every method predicted (missing: "
            f"{missing}); a method that leaves out hard cases gains by it."
        )
    if said := _too_few(numbers, significance):
        warnings.append(said)
    notes = []
    if unchecked := [name for name in numbers.methods if name not in models]:
        notes.append(f"Not checked whether {', '.join(unchecked)} trained on evaluated cases: no --model was given.")
    if clean := [e.method for e in exposures if not e.sentences(total)]:
        notes.append(
            f"By the names of the cases, {', '.join(clean)} and their teachers trained on none of the evaluated cases."
        )
    return tuple(warnings), tuple(notes)


def _failures(numbers: Numbers) -> list[str]:
    """Which structures a method misses or invents altogether: what no mean distance shows."""
    said = []
    for name in numbers.methods:
        found = [d for d in numbers.detections if d.method == name]
        parts = [f"misses {d.label} altogether in {d.missed} of {d.present} cases" for d in found if d.missed]
        parts += [f"invents {d.label} in {d.invented} of {d.absent} cases without it" for d in found if d.invented]
        if parts:
            said.append(f"{name} {', '.join(parts)}.")
    if said:
        said[-1] += " There are no distances there, and comparisons of distances leave them out: look at this first."
    return said


def _too_few(numbers: Numbers, significance: Significance) -> str | None:
    """Whether even the clearest difference would not be significant: all cases on one side have p = 2 / 2^n."""
    what, n = ("cases", len(numbers.cases)) if numbers.groups is None else ("groups", len(set(numbers.groups)))
    tests = sum(t.metric == numbers.shown[0] for t in numbers.tests) if significance.correction else 1
    smallest = min(1.0, tests * 2.0 ** (1 - n))
    if smallest < significance.level:
        return None
    corrected = f", corrected for {tests} tests," if tests > 1 else ""
    return (
        f"{n} {what} are too few for any difference to be significant at {significance.level:g}: the smallest possible "
        f"p{corrected} is {probability(smallest)}."
    )
