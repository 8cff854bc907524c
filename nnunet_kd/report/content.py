"""The whole report as data, before anything is written."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnunet_kd.evaluation.statistics import PairedComparison, Significance
from nnunet_kd.evaluation.table import by_metric
from nnunet_kd.report.calibration import Calibration
from nnunet_kd.report.cases import ShownCase
from nnunet_kd.report.costs import Cost, Ratio
from nnunet_kd.report.headline import Statement
from nnunet_kd.report.numbers import Numbers
from nnunet_kd.report.provenance import Provenance


@dataclass(frozen=True)
class Report:
    """The content of page and files.

    Attributes:
        title: of the page.
        headline: loss, gain, cost.
        warnings: what a reader must know before trusting the numbers.
        notes: what was checked and found in order, or left out.
        numbers: scores and comparisons.
        significance: how p-values were judged.
        benchmark: machine, device and versions of the benchmark, or nothing.
        costs: of each method, where known.
        time_ratios: network time of the reference method over each other one's.
        fronts: Pareto-optimal methods for each kind of cost.
        calibration: of the methods with probabilities.
        calibration_tests: error per case of each such method against the reference method's.
        shown: cases with pictures.
        soft_label_entropy: mean entropy of each shown case of a soft-label store.
        provenance: where it all comes from.
    """

    title: str
    headline: tuple[Statement, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    numbers: Numbers
    significance: Significance
    benchmark: Mapping[str, Any]
    costs: Mapping[str, Cost]
    time_ratios: Mapping[str, Ratio]
    fronts: Mapping[str, tuple[str, ...]]
    calibration: tuple[Calibration, ...]
    calibration_tests: Mapping[str, PairedComparison]
    shown: tuple[ShownCase, ...]
    soft_label_entropy: Mapping[str, float]
    provenance: Provenance


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON: every number at full precision, null where undefined."""
    n = report.numbers
    content = {
        "title": report.title,
        "headline": report.headline,
        "warnings": report.warnings,
        "notes": report.notes,
        "methods": n.methods,
        "roles": n.roles,
        "reference_method": n.roles.reference,
        "cases": n.cases,
        "labels": n.labels,
        "metrics_shown": n.shown,
        "groups": None if n.groups is None else dict(zip(n.cases, n.groups, strict=True)),
        "significance": report.significance,
        "evaluation_settings": n.settings,
        "scores": n.scores,
        "structures": n.structures,
        "comparisons": n.tests,
        "benchmark": report.benchmark,
        "costs": report.costs,
        "network_time_ratios": report.time_ratios,
        "pareto_fronts": report.fronts,
        "calibration": [
            {"method": c.method, "ece": c.curve.error, "mean": c.mean, "sd": c.sd, "overconfidence": c.overconfidence}
            | {"case_errors": c.case_errors, "bins": c.curve}
            for c in report.calibration
        ],
        "calibration_comparisons": report.calibration_tests,
        "shown_cases": report.shown,
        "soft_label_entropy": report.soft_label_entropy,
        "per_case": _per_case(n.table),
        "provenance": report.provenance,
    }
    return _plain(content)


def _per_case(table: pd.DataFrame) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Every measurement by method, case, label and metric."""
    wide = by_metric(table)
    nested: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (method, case, label), values in zip(wide.index, wide.to_dict("records"), strict=True):
        nested.setdefault(method, {}).setdefault(case, {})[label] = values
    return nested


def _plain(value: Any) -> Any:
    """Dataclasses, tables, arrays and NaN as JSON has them."""
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("records"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):  # arrays and scalars of NumPy
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
