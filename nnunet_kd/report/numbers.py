"""Every number of the report, made from one long table; page and files only write them down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nnunet_kd.evaluation.statistics import Significance
from nnunet_kd.evaluation.table import by_method, case_means, distance_unit, failed_by_method, structures
from nnunet_kd.report.measurements import DISTANCES, HIGHER_IS_BETTER, MEAN, on_common
from nnunet_kd.report.methods import Roles
from nnunet_kd.report.scores import compare_methods, score_methods


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
    counts = structures(table)[["present", "missed", "absent", "invented"]]
    return Numbers(
        table=table,
        roles=roles,
        shown=tuple(shown),
        groups=None if groups is None else tuple(groups),
        settings=settings or {},
        scores=score_methods(table),
        structures=counts.groupby(["method", "label"], observed=True).sum().reset_index(),
        tests=compare_methods(table, roles, shown, significance, groups),
    )


def failed_apart(test: Any) -> str:
    """The structures that each of two methods misses or invents and that their comparison leaves out, or nothing."""
    if not test.first_failures and not test.second_failures:
        return ""
    return (
        f"structures missed or invented altogether, {test.first_failures} by {test.first} and "
        f"{test.second_failures} by {test.second}"
    )
