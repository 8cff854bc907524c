"""Scores of methods, and their paired comparisons, from the long table of measurements."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from nnunet_kd.evaluation.statistics import Significance, adjust, compare_paired
from nnunet_kd.evaluation.table import by_method, case_means, failed_by_method, nan_mean
from nnunet_kd.report.measurements import HIGHER_IS_BETTER, MEAN, of_label, on_common
from nnunet_kd.report.methods import Roles


def score_methods(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of every method on its own, and on what all comparable methods have.

    Returns:
        One row for each metric, class (and their mean) and method; columns: :class:`~nnunet_kd.report.numbers.Numbers`.
    """
    failed = failed_by_method(table)
    rows = []
    for metric in table["metric"].cat.categories:
        values = by_method(table, metric)
        for label in (*table["label"].cat.categories, MEAN):
            for method, score in _scores(of_label(values, label), of_label(failed, label)).items():
                rows.append({"method": method, "metric": metric, "label": label, **score})
    return pd.DataFrame(rows)


def compare_methods(
    table: pd.DataFrame,
    roles: Roles,
    metrics: Sequence[str],
    significance: Significance,
    groups: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Tests every method against the reference method, and the student against its twin.

    Args:
        table: of :func:`~nnunet_kd.report.measurements.long_table`.
        roles: which of its methods is what.
        metrics: to be tested.
        significance: correction and level.
        groups: group (patient) of each case.

    Returns:
        One row for each metric, pair and class (and their mean); columns: :class:`~nnunet_kd.report.numbers.Numbers`.
    """
    labels = table["label"].cat.categories
    failed = failed_by_method(table)
    pairs = [(name, roles.reference) for name in table["method"].cat.categories if name != roles.reference]
    if roles.twin is not None and roles.twin != roles.reference:
        pairs.append((roles.student, roles.twin))
    rows = []
    for metric in metrics:
        values = by_method(table, metric)
        for pair in pairs:
            for label in (*labels, MEAN) if len(labels) > 1 else (MEAN,):  # the mean of one class is this class
                names = {"first": pair[0], "second": pair[1], "metric": metric, "label": label}
                rows.append(names | _compare(of_label(values, label), of_label(failed, label), pair, metric, groups))
    return _judge(pd.DataFrame(rows), significance)


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


def _compare(
    values: pd.DataFrame, failed: pd.DataFrame, pair: tuple[str, str], metric: str, groups: Sequence[str] | None
) -> dict[str, Any]:
    """One comparison, its p-value not corrected yet."""
    first, second = pair
    means, failures = on_common(values, failed, [first, second])
    a, b = means[first].to_numpy(), means[second].to_numpy()
    return {
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
