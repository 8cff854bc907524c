"""Views of the long table of measurements, one row for each (method,) case, label and metric."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from nnunet_kd.utilities.errors import UserError


def by_metric(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each (method,) case and label, one column for each metric."""
    rows = [column for column in table if column not in ("metric", "value")]
    wide = table.pivot(index=rows, columns="metric", values="value")
    return wide.set_axis(list(wide), axis=1)


def by_method(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric: one row for each case and label, one column for each method."""
    wide = table[table["metric"] == metric].pivot(index=["case", "label"], columns="method", values="value")
    return wide.set_axis(list(wide), axis=1)


def failed_by_method(table: pd.DataFrame) -> pd.DataFrame:
    """Whether a method (columns) misses or invents the structure of a case and label (rows)."""
    wide = structures(table)["failed"].unstack("method")
    return wide.set_axis(list(wide), axis=1)


def case_means(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over the labels of each case that have a value, NaN where none has.

    Args:
        values: one row for each case and label, in order.

    Returns:
        One row for each case, the same columns.
    """
    of_labels = values.unstack("label")  # columns: (column of values, label)
    array = of_labels.to_numpy().reshape(len(of_labels), values.shape[1], len(values) // len(of_labels))
    return pd.DataFrame(nan_mean(array, axis=2), of_labels.index, values.columns)


def case_values(table: pd.DataFrame, metric: str, label: str | None = None) -> pd.Series:
    """One metric of every case, in a table without methods.

    Args:
        table: with the columns ``case``, ``label``, ``metric`` and ``value``.
        metric: one that it has.
        label: one that it has; None for the mean over labels, NaN left out (NaN where nothing else is).

    Raises:
        UserError: when the table has no such metric or label.
    """
    for column, name in (("metric", metric), ("label", label)):
        there = list(table[column].cat.categories)
        if name is not None and name not in there:
            raise UserError(f"no {column} {name!r} in this evaluation; it has {', '.join(there)}.")
    values = by_metric(table)[[metric]]
    return (case_means(values) if label is None else values.xs(label, level="label"))[metric]


def structures(table: pd.DataFrame) -> pd.DataFrame:
    """Which structures are there and are found: one row for each (method,) case and label.

    Returns:
        Booleans: ``present`` and ``absent`` in the reference; ``missed``: present, and the prediction has nothing of
        it; ``invented``: absent, and the prediction has some; ``failed``: missed or invented.
    """
    values = by_metric(table)
    absent, missed = values["RVD"].isna(), values["RVD"] == -1
    invented = absent & (values["Dice"] == 0)
    columns = {"present": ~absent, "missed": missed, "absent": absent, "invented": invented}
    return pd.DataFrame(columns | {"failed": missed | invented})


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean without NaN, along one axis; NaN, without a warning, where nothing is left."""
    values = np.ascontiguousarray(values)  # the last digit of a sum depends on the layout in memory
    there = ~np.isnan(values)
    count = there.sum(axis)
    return np.divide(np.where(there, values, 0.0).sum(axis), count, out=np.full(count.shape, np.nan), where=count > 0)


def distance_unit(settings: Mapping[str, Any]) -> str:
    """Unit of an evaluation's distances by its settings: ``mm``, or ``pixels`` without physical units."""
    return str(settings.get("distance_unit", "mm"))
