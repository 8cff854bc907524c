"""Every number of the report, made from one long table; page and files only write them down."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nnunet_kd.evaluation.statistics import Significance, adjust, compare_paired
from nnunet_kd.evaluation.table import by_method, case_means, distance_unit, nan_mean, structures
from nnunet_kd.report.measurements import DISTANCES, HIGHER_IS_BETTER, MEAN, of_label, on_common
from nnunet_kd.report.methods import Roles


@dataclass(frozen=True, eq=False)
class Numbers:
    """What was measured, complete.

    A structure that a method misses or invents has no distance, so methods may have values of different cases and
    classes. What is compared is the mean over those that every comparable method has; a method is comparable when it
    has a value of each class that another one has.

    Attributes:
        table: all measurements on the cases that every method predicted: ``method``, ``case``, ``label``, ``metric``,
            ``value``.
        roles: which method is what.
        shown: metrics of tables and figures; the others are in the files only.
        groups: group of each case, or None.
        settings: of the evaluation: rule for empty masks, unit of distances, tolerances, versions.
        scores: one row for each metric, class (or ``mean``) and method. ``mean``, ``sd`` (n - 1), ``median``, ``n``:
            over all cases in which the method has a value; ``undefined``: cases without; ``common_mean``,
            ``common_sd``, ``common_n``: over what every comparable method has, NaN and 0 for one that is not
            comparable; ``failures``: structures missed or invented that ``common_mean`` leaves out.
        structures: one row for each method and class: cases whose reference has it (``present``), those in which the
            prediction has nothing of it (``missed``), and the other way round (``absent``, ``invented``).
        tests: one row for each metric, pair of methods and class: the means of both over what both have, the
            structures missed or invented that this leaves out (``first_failures``, ``second_failures``), the fields
            of :class:`~nnunet_kd.evaluation.statistics.PairedComparison` (first minus second), ``p_adjusted`` for all
            tests of the metric, and whether it is ``significant``.
    """

    table: pd.DataFrame
    roles: Roles
    shown: tuple[str, ...]
    groups: tuple[str, ...] | None
    settings: Mapping[str, Any]
    scores: pd.DataFrame
    structures: pd.DataFrame
    tests: pd.DataFrame

    def _names(self, column: str) -> tuple[str, ...]:
        return tuple(self.table[column].cat.categories)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names in order."""
        return self._names("method")

    @property
    def cases(self) -> tuple[str, ...]:
        """Evaluated cases, those that every method predicted."""
        return self._names("case")

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes."""
        return self._names("label")

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that were measured."""
        return self._names("metric")

    @property
    def distance_unit(self) -> str:
        """``mm``, or ``pixels`` where the images have no physical units."""
        return distance_unit(self.settings)

    def unit(self, metric: str) -> str:
        """Unit of a metric; empty for a share."""
        return self.distance_unit if metric in DISTANCES else "ml" if metric.endswith("_ml") else ""

    def title(self, metric: str) -> str:
        """Metric with its unit."""
        return f"{metric} ({unit})" if (unit := self.unit(metric)) else metric

    @property
    def columns(self) -> dict[str, str]:
        """Title of every class and of their mean; with one class only the mean, under the class's name."""
        if len(self.labels) == 1:
            return {MEAN: self.labels[0]}
        return {**{label: label for label in self.labels}, MEAN: "mean over classes"}

    @property
    def over(self) -> str:
        """What a case's value is the mean of, for captions."""
        return self.columns[MEAN]

    def score(self, method: str, metric: str, label: str = MEAN) -> Any:
        """The row of :attr:`scores` of a method, metric and class."""
        return self._scores[method, metric, label]

    def test(self, first: str, second: str, metric: str, label: str = MEAN) -> Any:
        """The row of :attr:`tests` of two methods, or None where they are not compared."""
        return self._tests.get((first, second, metric, label))

    @cached_property
    def _scores(self) -> dict[tuple[str, ...], Any]:
        return {(s.method, s.metric, s.label): s for s in self.scores.itertuples(index=False)}

    @cached_property
    def _tests(self) -> dict[tuple[str, ...], Any]:
        return {(t.first, t.second, t.metric, t.label): t for t in self.tests.itertuples(index=False)}

    @cached_property
    def _failed(self) -> pd.DataFrame:
        return failed_by_method(self.table)

    def values(self, metric: str) -> pd.DataFrame:
        """One row for each case, one column for each method: the mean over the classes that have a value, or NaN."""
        return case_means(by_method(self.table, metric))

    def left_out(self, metric: str) -> pd.DataFrame:
        """Structures of each case (rows) that a method (columns) misses or invents and that have no value."""
        missing = self._failed & ~np.isfinite(by_method(self.table, metric))
        return missing.groupby("case", observed=True).sum()

    def pair(self, first: str, second: str, metric: str) -> pd.DataFrame:
        """Two methods on each case (rows), the mean over the classes that both have, NaN without such a class."""
        return on_common(by_method(self.table, metric), self._failed, [first, second])[0]

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


def compute_numbers(
    table: pd.DataFrame,
    roles: Roles,
    shown: Sequence[str],
    significance: Significance,
    groups: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Numbers:
    """Scores and tests of methods.

    Args:
        table: of :func:`~nnunet_kd.report.measurements.long_table`.
        roles: which of its methods is what.
        shown: metrics that are tested, keys of :data:`HIGHER_IS_BETTER`.
        significance: correction and level.
        groups: group (patient) of each case.
        settings: of the evaluation.
    """
    methods, labels, metrics = (list(table[column].cat.categories) for column in ("method", "label", "metric"))
    failed = failed_by_method(table)
    values = {metric: by_method(table, metric) for metric in metrics}
    scores = [
        {"method": method, "metric": metric, "label": label, **score}
        for metric in metrics
        for label in (*labels, MEAN)
        for method, score in _scores(of_label(values[metric], label), of_label(failed, label)).items()
    ]
    pairs = [(name, roles.reference) for name in methods if name != roles.reference]
    if roles.twin is not None and roles.twin != roles.reference:
        pairs.append((roles.student, roles.twin))
    tests = [
        _test(of_label(values[metric], label), of_label(failed, label), metric, label, pair, groups)
        for metric in shown
        for pair in pairs
        for label in ((*labels, MEAN) if len(labels) > 1 else (MEAN,))
    ]
    counts = structures(table)[["present", "missed", "absent", "invented"]]
    return Numbers(
        table, roles, tuple(shown), None if groups is None else tuple(groups), settings or {}, pd.DataFrame(scores),
        counts.groupby(["method", "label"], observed=True).sum().reset_index(),
        _judge(pd.DataFrame(tests), significance),
    )  # fmt: skip


def failed_by_method(table: pd.DataFrame) -> pd.DataFrame:
    """Whether a method (columns) misses or invents the structure of a case and label (rows)."""
    wide = structures(table)["failed"].unstack("method")
    return wide.set_axis(list(wide), axis=1)


def _scores(values: pd.DataFrame, failed: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Scores of all methods for a metric and class, on their own and on what the comparable ones have."""
    has_class = np.isfinite(values).groupby("label", observed=True).any()
    comparable = has_class[has_class.any(axis=1)].all()
    own = case_means(values)
    common, failures = on_common(values, failed, list(values.columns[comparable]))
    scores = {}
    for method in values:
        mean, sd, median, n = _describe(own[method])
        common_mean, common_sd, _, common_n = _describe(common.get(method, pd.Series(dtype=float)))
        scores[method] = {
            "mean": mean, "sd": sd, "median": median, "n": n, "undefined": len(own) - n, "common_mean": common_mean,
            "common_sd": common_sd, "common_n": common_n, "failures": int(failures[method]),
        }  # fmt: skip
    return scores


def _describe(values: pd.Series) -> tuple[float, float, float, int]:
    """Mean, sample standard deviation, median and number of what is not NaN; the first three are NaN without any."""
    v = values.dropna().to_numpy()
    mean, median = (float(f(v)) if v.size else float("nan") for f in (np.mean, np.median))
    return mean, float(v.std(ddof=1)) if v.size > 1 else float("nan"), median, v.size


def _test(
    values: pd.DataFrame,
    failed: pd.DataFrame,
    metric: str,
    label: str,
    pair: tuple[str, str],
    groups: Sequence[str] | None,
) -> dict[str, Any]:
    """One comparison, its p-value not corrected yet."""
    first, second = pair
    means, failures = on_common(values, failed, [first, second])
    a, b = means[first].to_numpy(), means[second].to_numpy()
    return {
        "first": first, "second": second, "metric": metric, "label": label,
        "first_mean": float(nan_mean(a, axis=0)), "second_mean": float(nan_mean(b, axis=0)),
        "first_failures": int(failures[first]), "second_failures": int(failures[second]),
        **asdict(compare_paired(a, b, groups, HIGHER_IS_BETTER[metric])),
    }  # fmt: skip


def _judge(tests: pd.DataFrame, significance: Significance) -> pd.DataFrame:
    """Corrects the p-values of each metric together."""
    adjusted = tests["p"]
    if significance.correction is not None:
        correction = significance.correction
        adjusted = tests.groupby("metric")["p"].transform(lambda p: adjust(p, correction))
    position = tests.columns.get_loc("second_failures") + 1
    tests.insert(position, "p_adjusted", adjusted)
    tests.insert(position + 1, "significant", adjusted < significance.level)
    return tests


def failed_apart(test: Any) -> str:
    """The structures that each of two methods misses or invents and that their comparison leaves out, or nothing."""
    if not test.first_failures and not test.second_failures:
        return ""
    return (
        f"structures missed or invented altogether, {test.first_failures} by {test.first} and "
        f"{test.second_failures} by {test.second}"
    )
