"""The long table that every number of a report comes from, and what each metric is."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nnunet_kd.evaluation.table import case_means
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.summaries import Summary, ordered

MEAN = "mean"  # of the classes of a case
HIGHER_IS_BETTER = {
    **dict.fromkeys(("Dice", "NSD", "IoU"), True),
    **dict.fromkeys(("HD", "HD95", "ASSD", "MSD", "VOE"), False),
}
DISTANCES = ("HD", "HD95", "ASSD", "MSD")
SHARES = ("Dice", "NSD", "IoU", "VOE")


def long_table(summaries: Mapping[str, Summary]) -> pd.DataFrame:
    """Puts the methods' tables below each other, restricted to the cases that each of them predicted.

    Returns:
        Columns ``method``, ``case``, ``label``, ``metric`` (ordered categories) and ``value``.

    Raises:
        UserError: when the methods share no case, or were measured with other labels.
    """
    first = next(iter(summaries.values()))
    labels, metrics = (list(first.table[column].cat.categories) for column in ("label", "metric"))
    for name, summary in summaries.items():
        if (found := list(summary.table["label"].cat.categories)) != labels:
            raise UserError(
                f"--method {name}: has the labels {', '.join(found)}, the first method {', '.join(labels)}; "
                "compare predictions of one data set."
            )
    cases = sorted(set(first.cases).intersection(*(s.cases for s in summaries.values())))
    if not cases:
        raise UserError("--method: no case was predicted by every method; compare predictions of the same cases.")
    table = pd.concat({name: s.table.astype({"case": str}) for name, s in summaries.items()}, names=["method"])
    table = table.reset_index("method")
    for column, order in (("method", summaries), ("case", cases), ("label", labels), ("metric", metrics)):
        table[column] = ordered(table[column], order)
    return table.dropna(subset="case")


def on_common(values: pd.DataFrame, failed: pd.DataFrame, methods: list[str]) -> tuple[pd.DataFrame, pd.Series]:
    """What some methods reached on the structures that all of them have a value of.

    Args:
        values: of one metric, one row for each case and label, one column for each method.
        failed: whether a method misses or invents the structure, the same rows and columns.
        methods: to be compared; none: nothing is common.

    Returns:
        One row for each case, one column for each of ``methods``: the mean over the labels in common, NaN without one.
        Failures of every method among the structures that are left out.
    """
    common = np.isfinite(values[methods]).all(axis=1) & bool(methods)
    return case_means(values.loc[common, methods].reindex(values.index)), failed[~common].sum()


def of_label(frame: pd.DataFrame, label: str) -> pd.DataFrame:
    """The rows of a label, or all of them for the mean over labels."""
    return frame if label == MEAN else frame[frame.index.get_level_values("label") == label]
