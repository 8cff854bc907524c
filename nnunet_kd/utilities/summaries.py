"""``summary.json``, nnU-Net's or that of ``nnUNetv2_kd evaluate``, checked and read into one long table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file

METRICS = ("Dice", "HD", "HD95", "ASSD", "MSD", "NSD", "VOE", "RVD", "IoU", "volume_pred_ml", "volume_ref_ml")
OWN_KEY = "nnunet_kd"  # of what this package adds to nnU-Net's form


@dataclass(frozen=True, eq=False)
class Summary:
    """What one folder of predictions reached.

    Attributes:
        table: one row for each case, label and metric, with these columns; the first three are ordered categories.

            - ``case``: file name without ending, sorted.
            - ``label``: name from ``dataset.json``, background left out; regions by their name.
            - ``metric``: those of :data:`METRICS` that the summary has.
            - ``value``: NaN where undefined.
        dice: the mean foreground Dice, as nnU-Net computes it; NaN where the summary has none.
        settings: rule for empty masks, unit of distances, NSD tolerances in this unit, versions; empty for a plain
            ``summary.json`` of nnU-Net.
    """

    table: pd.DataFrame
    dice: float
    settings: Mapping[str, Any]

    @property
    def cases(self) -> list[str]:
        """Names of the cases, sorted."""
        return list(self.table["case"].cat.categories)

    @classmethod
    def of(cls, content: Mapping[str, Any], label_names: Mapping[str, str] | None = None) -> "Summary":
        """Checks and reads the content of a ``summary.json``.

        Args:
            content: as nnU-Net, or :func:`nnunet_kd.evaluation.folder.evaluate_folder`, makes it.
            label_names: name of each of nnU-Net's label keys (``"1"``, ``"(1, 2)"``); by default those that the
                summary brings along, else the keys themselves.

        Raises:
            UserError: when it is not a summary, or holds a case twice.
        """
        settings = content.get(OWN_KEY, {})
        try:
            names = {**settings.get("labels", {}), **(label_names or {})}
            rows = {case_name(row["prediction_file"]): row["metrics"] for row in content["metric_per_case"]}
            keys = sorted({key for metrics in rows.values() for key in metrics} - {"0", "(0,)"}, key=_order)
            known = {name for metrics in rows.values() for key in keys for name in metrics[key]}
            metrics = [m for m in METRICS if m in known]
            values = [_number(rows[c][k].get(m)) for c in sorted(rows) for k in keys for m in metrics]
            dice = _number(content.get("foreground_mean", {}).get("Dice"))
            labels = [str(names.get(k, k)) for k in keys]
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError("not a summary.json of nnU-Net; make one with: nnUNetv2_kd evaluate.") from None
        if not rows or not keys:
            raise UserError("the summary.json holds no case or no foreground label.")
        if len(rows) < len(content["metric_per_case"]):
            raise UserError("the summary.json holds a case twice; evaluate one folder of predictions at a time.")
        axes = {"case": sorted(rows), "label": labels, "metric": metrics}
        index = pd.MultiIndex.from_product([ordered(names) for names in axes.values()], names=list(axes))
        table = pd.DataFrame({"value": np.array(values, dtype=float)}, index).reset_index()
        return cls(table, dice, settings)


def load_summary(file: Path) -> Summary:
    """Reads a ``summary.json``, from this package or from nnU-Net.

    Raises:
        UserError: when the file is missing or not a summary.
    """
    try:
        return Summary.of(load_json_file(file))
    except UserError as err:
        text = str(err)
        raise UserError(text if text.startswith(str(file)) else f"{file}: {text}") from None


def validation_file(model_folder: Path, fold: int | str) -> Path:
    """Where nnU-Net puts the summary of a fold's validation."""
    return model_folder / f"fold_{fold}" / "validation" / "summary.json"


def case_name(file: str) -> str:
    """File name without folder and ending: ``case.1`` for ``folder/case.1.nii.gz``."""
    return Path(Path(file).name.removesuffix(".gz")).stem


def ordered(names: Any, order: Any = None) -> pd.Categorical:
    """Names that sort, group and pivot in the given order, by default their own; names beyond it become NaN."""
    return pd.Categorical(names, categories=list(names if order is None else order), ordered=True)


def _order(key: str) -> list[int]:
    """Sorts nnU-Net's keys as numbers, "2" before "10"; a region after its first label."""
    return [int(n) for n in re.findall(r"\d+", key)]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
