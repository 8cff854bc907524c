"""Every number of the report: scores, failures, paired comparisons; page and files only write them down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_kd.evaluation.statistics import PairedComparison
from nnunet_kd.evaluation.table import Evaluation, distance_unit, nan_mean
from nnunet_kd.report.methods import Roles

MEAN = "mean"  # of the classes of a case
HIGHER_IS_BETTER = {
    **dict.fromkeys(("Dice", "NSD", "IoU"), True),
    **dict.fromkeys(("HD", "HD95", "ASSD", "MSD", "VOE"), False),
}
DISTANCES = ("HD", "HD95", "ASSD", "MSD")


@dataclass(frozen=True)
class Score:
    """One metric of one method and class over the cases.

    A structure that a method misses or invents has no distance, so methods may have values of different cases and
    classes. What is compared is the mean over those that every comparable method has; a method is comparable when it
    has a value of each class that another one has.

    Attributes:
        label: class, or ``mean`` for the mean over the classes of each case.
        mean: mean over all cases in which the method has a value, whatever the others have.
        sd: sample standard deviation over these cases (n - 1); NaN for a single case.
        median: median over these cases.
        n: their number.
        undefined: cases without a value.
        common_mean: mean over what every comparable method has; NaN for a method that is not comparable.
        common_sd: sample standard deviation of the same.
        common_n: cases of the same.
        failures: structures that the method misses or invents and that ``common_mean`` leaves out.
    """

    method: str
    metric: str
    label: str
    mean: float
    sd: float
    median: float
    n: int
    undefined: int
    common_mean: float
    common_sd: float
    common_n: int
    failures: int


@dataclass(frozen=True)
class Detection:
    """How often a method finds a structure at all.

    Attributes:
        label: class.
        present: cases whose reference has the structure.
        missed: those of them in which the prediction has nothing of it.
        absent: cases whose reference has nothing of it.
        invented: those of them in which the prediction has some.
    """

    method: str
    label: str
    present: int
    missed: int
    absent: int
    invented: int

    @property
    def failures(self) -> int:
        """Structures missed or invented."""
        return self.missed + self.invented


@dataclass(frozen=True)
class Test:
    """A paired comparison on the cases and classes that both have, and its p-value among all others of its metric.

    Attributes:
        first: method.
        second: the method it is compared with; differences are first minus second.
        metric: the metric.
        label: class, or ``mean``.
        first_mean: mean of the first method over what is compared.
        second_mean: the second one's.
        first_failures: structures that the first misses or invents and that the comparison leaves out.
        second_failures: the second one's.
        result: the comparison.
        p_adjusted: corrected for all tests of the metric, as the significance says; p itself without a correction.
        significant: whether it counts as significant.
    """

    first: str
    second: str
    metric: str
    label: str
    first_mean: float
    second_mean: float
    first_failures: int
    second_failures: int
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
        detections: of every method and class.
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
    detections: tuple[Detection, ...]
    tests: tuple[Test, ...]

    @property
    def distance_unit(self) -> str:
        """``mm``, or ``pixels`` or ``voxels`` where the images have no physical units."""
        return distance_unit(next(iter(self.evaluations.values())).settings)

    def unit(self, metric: str) -> str:
        """Unit of a metric; empty for a share."""
        return self.distance_unit if metric in DISTANCES else "ml" if metric.endswith("_ml") else ""

    def title(self, metric: str) -> str:
        """Metric with its unit."""
        return f"{metric} ({unit})" if (unit := self.unit(metric)) else metric

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Label and title of every class and of their mean; with one class only the mean, under the class's name."""
        return class_columns(self.labels)

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

    def detection(self, method: str, label: str) -> Detection:
        """How often a method finds a class at all."""
        return next(d for d in self.detections if (d.method, d.label) == (method, label))

    def values(self, method: str, metric: str, label: str = MEAN) -> np.ndarray:
        """One value for each case, NaN where undefined; the mean is over the classes that have one."""
        return self.evaluations[method].of(metric, None if label == MEAN else label)

    def pair(self, first: str, second: str, metric: str, label: str = MEAN) -> tuple[np.ndarray, np.ndarray]:
        """One value of each of two methods for each case, of the classes that both have; NaN without such a class."""
        a, b = (self.evaluations[name] for name in (first, second))
        columns = columns_of(a, label)
        return on_both(values_of(a, metric, columns), values_of(b, metric, columns))

    def left_out(self, method: str, metric: str) -> np.ndarray:
        """Structures of each case that a method misses or invents and that have no value of a metric, of (cases,)."""
        e = self.evaluations[method]
        return (failed(e) & ~np.isfinite(values_of(e, metric, slice(None)))).sum(1)

    def standing(self, metric: str, label: str = MEAN) -> dict[str, float]:
        """Place of each method, higher is better, equal ones share it; NaN where it is not comparable.

        Whoever misses or invents fewer of the structures that the mean leaves out comes first, then the mean decides.
        """
        sign = 1 if HIGHER_IS_BETTER[metric] else -1
        scores = {name: self.score(name, metric, label) for name in self.methods}
        keys = {n: (-s.failures, sign * s.common_mean) for n, s in scores.items() if np.isfinite(s.common_mean)}
        order = sorted(set(keys.values()))
        return {name: float(order.index(keys[name])) if name in keys else float("nan") for name in self.methods}

    def best(self, metric: str, label: str = MEAN) -> set[str]:
        """Methods that none stands above; none where fewer than two can be compared."""
        places = {name: place for name, place in self.standing(metric, label).items() if np.isfinite(place)}
        return {name for name, place in places.items() if place == max(places.values())} if len(places) > 1 else set()


def failed_apart(test: Test) -> str:
    """The structures that each of two methods misses or invents and that their comparison leaves out, or nothing."""
    if not test.first_failures and not test.second_failures:
        return ""
    return (
        f"structures missed or invented altogether, {test.first_failures} by {test.first} and "
        f"{test.second_failures} by {test.second}"
    )


def class_columns(labels: Sequence[str]) -> tuple[tuple[str, str], ...]:
    if len(labels) == 1:
        return ((MEAN, labels[0]),)
    return (*((label, label) for label in labels), (MEAN, "mean over classes"))


def columns_of(evaluation: Evaluation, label: str) -> slice:
    """Columns of a class, or of all for their mean."""
    if label == MEAN:
        return slice(None)
    position = evaluation.labels.index(label)
    return slice(position, position + 1)


def values_of(evaluation: Evaluation, metric: str, columns: slice) -> np.ndarray:
    """A metric of every case and of some classes, of shape (cases, classes)."""
    return evaluation.values[:, columns, evaluation.metrics.index(metric)]


def failed(evaluation: Evaluation) -> np.ndarray:
    """Where a structure is missed or invented, of shape (cases, classes)."""
    return evaluation.missed() | evaluation.invented()


def on_both(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the classes that both have of every case: from (cases, classes) twice to (cases,) twice."""
    both = np.isfinite(first) & np.isfinite(second)
    return nan_mean(np.where(both, first, np.nan), axis=1), nan_mean(np.where(both, second, np.nan), axis=1)
