"""Metrics of one method as one array of cases, labels and metrics, read from ``summary.json``."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file

METRICS = ("Dice", "HD", "HD95", "ASSD", "MSD", "NSD", "VOE", "RVD", "IoU", "volume_pred_ml", "volume_ref_ml")
OWN_KEY = "nnunet_kd"


@dataclass(frozen=True)
class Evaluation:
    """What one method reached on every case and label.

    Attributes:
        cases: file names without ending, sorted.
        labels: names from ``dataset.json``, background left out; regions by their name.
        metrics: those of :data:`METRICS` that the summary has.
        values: float64 of shape (cases, labels, metrics); NaN where a metric is undefined.
        settings: rule for empty masks, unit of distances, NSD tolerances in this unit, versions; empty for a plain
            ``summary.json`` of nnU-Net.
    """

    cases: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    values: np.ndarray
    settings: Mapping[str, Any] = field(default_factory=dict)

    def of(self, metric: str, label: str | None = None) -> np.ndarray:
        """One metric of every case, float64 of shape (cases,).

        Args:
            metric: one of ``metrics``.
            label: one of ``labels``; None for the mean over labels, NaN left out (NaN where nothing else is).

        Raises:
            UserError: when the evaluation has no such metric or label.
        """
        values = self.values[:, :, _position(metric, self.metrics, "metric")]
        if label is not None:
            return values[:, _position(label, self.labels, "label")].copy()
        return nan_mean(values, axis=1)

    def missed(self) -> np.ndarray:
        """Where the reference has a structure and the prediction nothing of it, boolean of shape (cases, labels)."""
        return self.values[:, :, _position("RVD", self.metrics, "metric")] == -1

    def invented(self) -> np.ndarray:
        """Where the prediction has a structure and the reference nothing of it, boolean of shape (cases, labels)."""
        return self.absent() & (self.values[:, :, _position("Dice", self.metrics, "metric")] == 0)

    def absent(self) -> np.ndarray:
        """Where the reference has nothing of a structure, boolean of shape (cases, labels)."""
        return np.isnan(self.values[:, :, _position("RVD", self.metrics, "metric")])

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any], label_names: Mapping[str, str] | None = None) -> "Evaluation":
        """Reads what :func:`nnunet_kd.evaluation.folder.evaluate_folder`, or nnU-Net itself, has written.

        Args:
            summary: content of a ``summary.json``.
            label_names: name of each of nnU-Net's label keys (``"1"``, ``"(1, 2)"``); by default those that the
                summary brings along, else the keys themselves.

        Raises:
            UserError: when it is not a summary, or holds a case twice.
        """
        settings = summary.get(OWN_KEY, {})
        try:
            names = {**settings.get("labels", {}), **(label_names or {})}
            rows = {case_name(row["prediction_file"]): row["metrics"] for row in summary["metric_per_case"]}
            keys = sorted({key for metrics in rows.values() for key in metrics} - {"0", "(0,)"}, key=_order)
            known = {name for metrics in rows.values() for key in keys for name in metrics[key]}
            cases, metrics = sorted(rows), [m for m in METRICS if m in known]
            values = [[[_number(rows[c][k].get(m)) for m in metrics] for k in keys] for c in cases]
            labels = tuple(str(names.get(k, k)) for k in keys)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError("not a summary.json of nnU-Net; make one with: nnUNetv2_kd evaluate.") from None
        if not rows or not keys:
            raise UserError("the summary.json holds no case or no foreground label.")
        if len(rows) < len(summary["metric_per_case"]):
            raise UserError("the summary.json holds a case twice; evaluate one folder of predictions at a time.")
        return cls(tuple(cases), labels, tuple(metrics), np.array(values, dtype=float), settings)


def load_evaluation(file: Path) -> Evaluation:
    """Reads a ``summary.json``, from this package or from nnU-Net.

    Raises:
        UserError: when the file is missing or not a summary.
    """
    try:
        return Evaluation.from_summary(load_json_file(file))
    except UserError as err:
        text = str(err)
        raise UserError(text if text.startswith(str(file)) else f"{file}: {text}") from None


def distance_unit(settings: Mapping[str, Any]) -> str:
    """Unit of an evaluation's distances by its settings: ``mm``, or ``pixels`` without physical units."""
    return str(settings.get("distance_unit", "mm"))


def case_name(file: str) -> str:
    """File name without folder and ending: ``case.1`` for ``folder/case.1.nii.gz``."""
    return Path(Path(file).name.removesuffix(".gz")).stem


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean without NaN, along one axis; NaN, without a warning, where nothing is left."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    return np.divide(np.where(there, values, 0.0).sum(axis), count, out=np.full(count.shape, np.nan), where=count > 0)


def _position(name: str, names: Sequence[str], kind: str) -> int:
    if name not in names:
        raise UserError(f"no {kind} {name!r} in this evaluation; it has {', '.join(names)}.")
    return names.index(name)


def _order(key: str) -> list[int]:
    """Sorts nnU-Net's keys as numbers, "2" before "10"; a region after its first label."""
    return [int(n) for n in re.findall(r"\d+", key)]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
