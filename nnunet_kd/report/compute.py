"""Makes the numbers of a report from the evaluations of its methods."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nnunet_kd.evaluation.statistics import Significance, adjust, compare_paired
from nnunet_kd.evaluation.table import Evaluation, nan_mean
from nnunet_kd.report.methods import Roles
from nnunet_kd.report.numbers import (
    HIGHER_IS_BETTER,
    MEAN,
    Detection,
    Numbers,
    Score,
    Test,
    class_columns,
    columns_of,
    failed,
    on_both,
    values_of,
)
from nnunet_kd.utilities.errors import UserError


def common_cases(evaluations: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """Restricts all methods to the cases that each of them predicted.

    Raises:
        UserError: when the methods share no case, or were measured with other labels.
    """
    first = next(iter(evaluations.values()))
    for name, e in evaluations.items():
        if e.labels != first.labels:
            raise UserError(
                f"--method {name}: has the labels {', '.join(e.labels)}, the first method {', '.join(first.labels)}; "
                "compare predictions of one data set."
            )
    cases = tuple(c for c in first.cases if all(c in e.cases for e in evaluations.values()))
    if not cases:
        raise UserError("--method: no case was predicted by every method; compare predictions of the same cases.")
    kept = {}
    for name, e in evaluations.items():
        rows = [e.cases.index(c) for c in cases]
        kept[name] = Evaluation(cases, e.labels, e.metrics, e.values[rows], e.settings)
    return kept


def compute_numbers(
    evaluations: Mapping[str, Evaluation],
    roles: Roles,
    shown: Sequence[str],
    significance: Significance,
    groups: Sequence[str] | None = None,
) -> Numbers:
    """Scores and tests of methods that were evaluated on the same cases.

    Args:
        evaluations: of each method, with equal cases and labels.
        roles: which of them is what.
        shown: metrics that are tested, keys of :data:`HIGHER_IS_BETTER`.
        significance: correction and level.
        groups: group (patient) of each case.
    """
    first = next(iter(evaluations.values()))
    labels = (*first.labels, MEAN)
    tested = [label for label, _ in class_columns(first.labels)]
    scores = tuple(
        score for metric in first.metrics for label in labels for score in _scores(evaluations, metric, label)
    )
    pairs = [(name, roles.reference) for name in evaluations if name != roles.reference]
    if roles.twin is not None and roles.twin != roles.reference:
        pairs.append((roles.student, roles.twin))
    tests = tuple(test for metric in shown for test in _tests(evaluations, pairs, metric, tested, significance, groups))
    return Numbers(
        tuple(evaluations), roles, first.cases, first.labels, tuple(shown),
        None if groups is None else tuple(groups), evaluations, scores, _detections(evaluations), tests,
    )  # fmt: skip


def _detections(evaluations: Mapping[str, Evaluation]) -> tuple[Detection, ...]:
    made = []
    for name, e in evaluations.items():
        absent, missed, invented = e.absent().sum(0), e.missed().sum(0), e.invented().sum(0)
        for k, label in enumerate(e.labels):
            present = len(e.cases) - int(absent[k])
            made.append(Detection(name, label, present, int(missed[k]), int(absent[k]), int(invented[k])))
    return tuple(made)


def _scores(evaluations: Mapping[str, Evaluation], metric: str, label: str) -> list[Score]:
    """Scores of all methods for a metric and class, on their own and on what the comparable ones have."""
    columns = columns_of(next(iter(evaluations.values())), label)
    values = {name: values_of(e, metric, columns) for name, e in evaluations.items()}
    there = {name: np.isfinite(v) for name, v in values.items()}
    wanted = np.any([t.any(0) for t in there.values()], axis=0)
    comparable = [name for name, t in there.items() if t.any(0)[wanted].all()]
    common = np.all([there[name] for name in comparable], axis=0) if comparable else np.zeros_like(wanted)[None]
    made = []
    for name, e in evaluations.items():
        own = _of_cases(values[name])
        shared = _of_cases(np.where(common, values[name], np.nan) if name in comparable else values[name][:0])
        made.append(
            Score(
                method=name,
                metric=metric,
                label=label,
                mean=_mean(own),
                sd=_sd(own),
                median=float(np.median(own)) if own.size else float("nan"),
                n=own.size,
                undefined=len(e.cases) - own.size,
                common_mean=_mean(shared),
                common_sd=_sd(shared),
                common_n=shared.size,
                failures=int((failed(e)[:, columns] & ~common).sum()),
            )
        )
    return made


def _of_cases(values: np.ndarray) -> np.ndarray:
    """Means over the classes, from (cases, classes) to (cases that have any,)."""
    means = nan_mean(values, axis=1)
    return means[np.isfinite(means)]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else float("nan")


def _test(
    evaluations: Mapping[str, Evaluation],
    pair: tuple[str, str],
    metric: str,
    label: str,
    groups: Sequence[str] | None,
) -> Test:
    """One comparison, its p-value not corrected yet."""
    first, second = (evaluations[name] for name in pair)
    columns = columns_of(first, label)
    a, b = values_of(first, metric, columns), values_of(second, metric, columns)
    alone = ~(np.isfinite(a) & np.isfinite(b))
    of_cases = on_both(a, b)
    result = compare_paired(*of_cases, groups, HIGHER_IS_BETTER[metric])
    return Test(
        first=pair[0],
        second=pair[1],
        metric=metric,
        label=label,
        first_mean=float(nan_mean(of_cases[0], axis=0)),
        second_mean=float(nan_mean(of_cases[1], axis=0)),
        first_failures=int((failed(first)[:, columns] & alone).sum()),
        second_failures=int((failed(second)[:, columns] & alone).sum()),
        result=result,
        p_adjusted=result.p,
        significant=False,
    )


def _tests(
    evaluations: Mapping[str, Evaluation],
    pairs: Sequence[tuple[str, str]],
    metric: str,
    labels: Sequence[str],
    significance: Significance,
    groups: Sequence[str] | None,
) -> list[Test]:
    """All tests of one metric: they are corrected together."""
    made = [_test(evaluations, pair, metric, label, groups) for pair in pairs for label in labels]
    p = np.array([test.result.p for test in made])
    adjusted = adjust(p, significance.correction) if significance.correction else p
    marks = significance.mark(p)
    return [
        replace(test, p_adjusted=float(q), significant=bool(mark))
        for test, q, mark in zip(made, adjusted, marks, strict=True)
    ]
