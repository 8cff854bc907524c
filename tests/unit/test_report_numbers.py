"""The numbers of a report that was made before, from its measurements, to the digit."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nnunet_kd.evaluation.statistics import Significance
from nnunet_kd.report.figures import dot_plot
from nnunet_kd.report.files import write_table
from nnunet_kd.report.headline import make_headline
from nnunet_kd.report.measurements import long_table
from nnunet_kd.report.methods import Roles
from nnunet_kd.report.numbers import compute_numbers
from nnunet_kd.report.style import method_styles
from nnunet_kd.utilities.summaries import Summary

GOLDEN = Path(__file__).parents[1] / "golden" / "report"
HOLM = Significance("holm", 0.05)


def summary_of(rows: list[dict[str, str]]) -> Summary:
    """The ``summary.json`` of one method, from the rows that the report's ``cases.csv`` has of it."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    metrics = [name for name in rows[0] if name not in ("method", "case", "label")]
    cases: dict[str, dict] = {}
    for row in rows:
        values = {name: float(row[name] or "nan") for name in metrics}
        cases.setdefault(row["case"], {})[str(labels.index(row["label"]) + 1)] = values
    content = [{"prediction_file": f"{case}.nii.gz", "metrics": metrics} for case, metrics in cases.items()]
    return Summary.of({"metric_per_case": content}, {str(i + 1): name for i, name in enumerate(labels)})


@pytest.fixture(scope="module")
def numbers():
    with (GOLDEN / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    methods = dict.fromkeys(row["method"] for row in rows)
    table = long_table({m: summary_of([row for row in rows if row["method"] == m]) for m in methods})
    groups = [f"patient{i // 2}" for i in range(table["case"].nunique())]
    return compute_numbers(table, Roles("student", "ensemble", "twin"), ("HD95", "Dice"), HOLM, groups)


@pytest.mark.parametrize("name", ["scores", "structures", "comparisons"])
def test_every_number_is_the_same_to_the_digit(numbers, tmp_path, name):
    tables = {"scores": numbers.scores, "structures": numbers.structures, "comparisons": numbers.tests}
    write_table(tmp_path / "new.csv", tables[name])
    assert (tmp_path / "new.csv").read_text().splitlines() == (GOLDEN / f"{name}.csv").read_text().splitlines()


def test_the_headline_is_the_same(numbers):
    expected = json.loads((GOLDEN / "headline.json").read_text(encoding="utf-8"))
    assert [vars(statement) for statement in make_headline(numbers, {}, HOLM, None)] == expected


def test_the_golden_numbers_hold_what_is_hard(numbers):
    """Structures that are missed, invented or absent, and a method that is not comparable."""
    assert (numbers.structures[["missed", "absent", "invented"]].sum() > 0).all()
    assert pd.isna(numbers.score("other", "HD95").common_mean)
    assert numbers.tests["significant"].any()


def test_axes_end_where_the_metric_does(numbers):
    """A bar reaches past 1, and a mean of 0 lies on the other edge; distances are not cut off."""

    def limits(metric):
        axes = dot_plot(numbers, metric, method_styles(numbers.methods, numbers.roles)).axes
        drawn = np.concatenate([line.get_xdata() for ax in axes for line in ax.lines])
        lows, highs = zip(*(ax.get_xlim() for ax in axes), strict=True)
        return (min(drawn), max(drawn)), (min(lows), max(highs))

    drawn, shown = limits("Dice")
    assert drawn[0] == 0
    assert drawn[1] > 1
    assert shown == (0, 1)
    drawn, shown = limits("HD95")
    assert 0 < shown[0] < drawn[0] < drawn[1] < shown[1]
