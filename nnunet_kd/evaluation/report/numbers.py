"""Every number of the report: scores, paired comparisons, Pareto fronts; page and files only write them down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_kd.errors import UserError
from nnunet_kd.evaluation.report.methods import Roles
from nnunet_kd.evaluation.statistics import PairedComparison, Significance, adjust, compare_paired
from nnunet_kd.evaluation.table import Evaluation, nan_mean

MEAN = "mean"  # of the classes of a case
HIGHER_IS_BETTER = {
    **dict.fromkeys(("Dice", "NSD", "IoU"), True),
    **dict.fromkeys(("HD", "HD95", "ASSD", "MSD", "VOE"), False),
}
UNITS = {**dict.fromkeys(("HD", "HD95", "ASSD", "MSD"), "mm"), "volume_pred_ml": "ml", "volume_ref_ml": "ml"}


@dataclass(frozen=True)
class Score:
    """One metric of one method and class over the cases; NaN cases are left out.

    Attributes:
        label: class, or ``mean`` for the mean over the classes of each case.
        mean: mean over cases.
        sd: sample standard deviation over cases (n - 1); NaN for a single case.
        median: median over cases.
        n: cases with a value.
        undefined: cases without.
    """

    method: str
    metric: str
    label: str
    mean: float
    sd: float
    median: float
    n: int
    undefined: int


@dataclass(frozen=True)
class Test:
    """A paired comparison, and its p-value among all others of its metric.

    Attributes:
        first: method.
        second: the method it is compared with; differences are first minus second.
        metric: the metric.
        label: class, or ``mean``.
        result: the comparison.
        p_adjusted: corrected for all tests of the metric, as the significance says; p itself without a correction.
        significant: whether it counts as significant.
    """

    first: str
    second: str
    metric: str
    label: str
    result: PairedComparison
    p_adjusted: float
    significant: bool


@dataclass(frozen=True)
class Numbers:
    """What was measured, complete.

    Attributes:
        methods: names in order.
        roles: which of them is what.
        cases: evaluated cases, those that every method predicted.
        labels: classes.
        shown: metrics of tables and figures; the others are in the files only.
        groups: group of each case, or None.
        evaluations: all metrics of each method on ``cases``.
        scores: of every method, metric and label.
        tests: every method against the reference method, and the student against its twin.
    """

    methods: tuple[str, ...]
    roles: Roles
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    shown: tuple[str, ...]
    groups: tuple[str, ...] | None
    evaluations: Mapping[str, Evaluation]
    scores: tuple[Score, ...]
    tests: tuple[Test, ...]

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Label and title of every class and of their mean; with one class only the mean, under the class's name."""
        return _columns(self.labels)

    @property
    def over(self) -> str:
        """What a case's value is the mean of, for captions."""
        return "mean over classes" if len(self.labels) > 1 else self.labels[0]

    def score(self, method: str, metric: str, label: str = MEAN) -> Score:
        """The score of a method, metric and class."""
        return next(s for s in self.scores if (s.method, s.metric, s.label) == (method, metric, label))

    def test(self, first: str, second: str, metric: str, label: str = MEAN) -> Test | None:
        """The comparison of two methods, or None where it was not made."""
        wanted = (first, second, metric, label)
        return next((t for t in self.tests if (t.first, t.second, t.metric, t.label) == wanted), None)

    def values(self, method: str, metric: str, label: str = MEAN) -> np.ndarray:
        """One value for each case, NaN where undefined."""
        return self.evaluations[method].of(metric, None if label == MEAN else label)


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
    tested = [label for label, _ in _columns(first.labels)]
    scores = tuple(
        _score(name, metric, label, e.of(metric, None if label == MEAN else label))
        for name, e in evaluations.items()
        for metric in e.metrics
        for label in labels
    )
    pairs = [(name, roles.reference) for name in evaluations if name != roles.reference]
    if roles.twin is not None and roles.twin != roles.reference:
        pairs.append((roles.student, roles.twin))
    tests = tuple(test for metric in shown for test in _tests(evaluations, pairs, metric, tested, significance, groups))
    return Numbers(
        tuple(evaluations), roles, first.cases, first.labels, tuple(shown),
        None if groups is None else tuple(groups), evaluations, scores, tests,
    )  # fmt: skip


def _columns(labels: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if len(labels) == 1:
        return ((MEAN, labels[0]),)
    return (*((label, label) for label in labels), (MEAN, "mean over classes"))


def _score(method: str, metric: str, label: str, values: np.ndarray) -> Score:
    known = values[np.isfinite(values)]
    mean = float(nan_mean(known[None], 1)[0])
    sd = float(known.std(ddof=1)) if known.size > 1 else float("nan")
    median = float(np.median(known)) if known.size else float("nan")
    return Score(method, metric, label, mean, sd, median, int(known.size), int(values.size - known.size))


def _tests(
    evaluations: Mapping[str, Evaluation],
    pairs: Sequence[tuple[str, str]],
    metric: str,
    labels: Sequence[str],
    significance: Significance,
    groups: Sequence[str] | None,
) -> list[Test]:
    """All tests of one metric: they are corrected together."""
    made = []
    for a, b in pairs:
        for label in labels:
            values = [evaluations[name].of(metric, None if label == MEAN else label) for name in (a, b)]
            result = compare_paired(values[0], values[1], groups, HIGHER_IS_BETTER[metric])
            made.append((a, b, label, result))
    p = np.array([result.p for *_, result in made])
    adjusted = adjust(p, significance.correction) if significance.correction else p
    marks = significance.mark(p)
    return [
        Test(a, b, metric, label, result, float(q), bool(mark))
        for (a, b, label, result), q, mark in zip(made, adjusted, marks, strict=True)
    ]


def pareto_front(cost: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Positions that no other one beats: none is as cheap or cheaper and as good or better, and differs in one.

    Args:
        cost: lower is better.
        quality: higher is better; points with NaN in either are left out.

    Returns:
        positions by rising cost.
    """
    points = [i for i in range(len(cost)) if np.isfinite(cost[i]) and np.isfinite(quality[i])]

    def beaten(i: int) -> bool:
        return any(
            cost[j] <= cost[i] and quality[j] >= quality[i] and (cost[j] < cost[i] or quality[j] > quality[i])
            for j in points
        )

    return sorted((i for i in points if not beaten(i)), key=lambda i: cost[i])
