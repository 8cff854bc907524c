"""A structure that is missed has no distance: no method of the report may gain by it."""

import numpy as np
import pytest

from nnunet_kd.evaluation.statistics import Significance
from nnunet_kd.report.cases import choose_shown
from nnunet_kd.report.headline import make_headline
from nnunet_kd.report.measurements import long_table
from nnunet_kd.report.methods import Roles
from nnunet_kd.report.numbers import compute_numbers
from nnunet_kd.report.remarks import make_remarks
from nnunet_kd.report.tables import accuracy_table, case_table, spread_table, structure_table
from nnunet_kd.report.tables import test_tables as comparison_tables
from nnunet_kd.utilities.summaries import Summary

NAN = float("nan")
METRICS = ("Dice", "HD95", "RVD")
ORGAN, LESION = (0.9, 2.0, 0.1), (0.6, 9.0, 0.2)
MISSED, INVENTED, NOTHING = (0.0, NAN, -1.0), (0.0, NAN, NAN), (NAN, NAN, NAN)
HOLM = Significance("holm", 0.05)
CASES = tuple(f"case{i}" for i in range(6))


def better(values, by):
    return tuple(v - by for v in values[:2]) + values[2:]


def numbers(lesions, shown=("HD95", "Dice"), organs=None):
    """A report's numbers: each method has the organ in all cases, and of the lesion what is given for each case."""
    organs = organs or {}

    def summary(name, of_cases):
        rows = []
        for case, lesion in zip(CASES, of_cases, strict=True):
            structures = {"1": organs.get(name, ORGAN), "2": lesion}
            metrics = {key: dict(zip(METRICS, values, strict=True)) for key, values in structures.items()}
            rows.append({"prediction_file": f"{case}.nii.gz", "metrics": metrics})
        return Summary.of({"metric_per_case": rows}, {"1": "organ", "2": "lesion"})

    table = long_table({name: summary(name, of_cases) for name, of_cases in lesions.items()})
    first, second, *others = lesions
    return compute_numbers(table, Roles(second, first, next(iter(others), None)), shown, HOLM)


def bold(table, column):
    return {row[0].text for row in table.rows if row[column].best}


def cell(table, method, column):
    return next(row[column].text for row in table.rows if row[0].text == method)


@pytest.fixture(scope="module")
def blind():
    """The student never finds the lesion; in the organ it is as good as its ensemble and its twin."""
    return numbers({"ensemble": [LESION] * 6, "student": [MISSED] * 6, "twin": [better(LESION, -1)] * 6})


def test_a_method_that_misses_a_class_has_no_mean_distance_over_the_classes(blind):
    assert blind.score("student", "HD95").mean == 2  # the organ's alone
    assert np.isnan(blind.score("student", "HD95").common_mean)
    assert blind.score("ensemble", "HD95").common_mean == pytest.approx(5.5)
    assert blind.best("HD95") == {"ensemble"}
    table = accuracy_table(blind)
    column = table.flat_header.index("mean over classes HD95")
    assert cell(table, "student", column) == "\u2013"
    assert bold(table, column) == {"ensemble"}
    assert not any(row[column].mark for row in table.rows if row[0].text == "student")
    assert bold(spread_table(blind), spread_table(blind).header.index("HD95 (mm)")) == {"ensemble"}
    assert "not comparable" in table.caption


def test_it_is_paired_on_what_both_have(blind):
    test = blind.test("student", "twin", "HD95")
    assert (test.first_mean, test.second_mean) == (2, 2)  # the organ of both, not the twin's mean over two classes
    assert (test.mean, test.better, test.ties) == (0, 0, 6)
    assert (test.first_failures, test.second_failures) == (6, 0)
    both = blind.pair("student", "twin", "HD95")
    assert both["student"].tolist() == both["twin"].tolist() == [2] * 6
    [main, _] = comparison_tables(blind)
    rows = {(r[0].text, r[1].text, r[2].text): r for r in main.rows}
    assert rows["student \u2212 twin", "HD95", "mean"][main.header.index("failures left out")].text == "6 / 0"


def test_what_it_misses_comes_first(blind):
    table = structure_table(blind)
    assert table.header == ("method", "in all: missed", "organ: missed", "lesion: missed")
    assert cell(table, "student", 3) == "6 of 6"
    assert bold(table, 3) == {"ensemble", "twin"}
    assert bold(table, 2) == set()
    warnings, _ = make_remarks(blind, {}, {}, 6, HOLM)
    assert warnings[0].startswith("student misses lesion altogether in 6 of 6 cases.")
    gain = make_headline(blind, {}, HOLM, None)[1]
    assert gain.figure == "+6 failures"
    assert gain.sentence.startswith("Structures missed or invented altogether, 6 by student and 0 by twin, do not")
    assert "2.00 against 2.00, mean over classes that both have" in gain.sentence


def test_missing_the_hard_cases_gains_nothing():
    hard, easy = (0.3, 30.0, 0.5), (0.8, 3.0, 0.1)
    found = numbers({"a": [easy, hard] * 3, "b": [better(easy, -0.1), MISSED] * 3})
    lesion = {name: found.score(name, "HD95", "lesion") for name in "ab"}
    assert (lesion["a"].mean, lesion["b"].mean) == pytest.approx((16.5, 3.1))
    assert (lesion["a"].common_mean, lesion["b"].common_mean) == pytest.approx((3, 3.1))
    assert (lesion["a"].common_n, lesion["a"].failures, lesion["b"].failures) == (3, 0, 3)
    assert found.best("HD95", "lesion") == found.best("HD95") == {"a"}
    # and not either where what is left is better than the other's
    found = numbers({"a": [easy, hard] * 3, "b": [better(easy, 0.1), MISSED] * 3})
    assert found.score("b", "HD95", "lesion").common_mean < found.score("a", "HD95", "lesion").common_mean
    assert found.best("HD95", "lesion") == {"a"}
    assert found.standing("HD95")["a"] > found.standing("HD95")["b"]


def test_inventing_a_structure_costs_what_no_mean_shows():
    """Nothing in both masks is undefined, so that only the method that is wrong has a Dice there."""
    found = numbers({"right": [LESION] * 5 + [NOTHING], "wrong": [LESION] * 5 + [INVENTED]}, shown=("Dice",))
    scores = {name: found.score(name, "Dice", "lesion") for name in ("right", "wrong")}
    assert scores["wrong"].mean < scores["right"].mean
    assert scores["wrong"].common_mean == scores["right"].common_mean
    assert found.best("Dice", "lesion") == {"right"}
    assert structure_table(found).header[-1] == "lesion: invented"
    assert cell(structure_table(found), "wrong", -1) == "1 of 1"
    counts = found.structures.set_index(["method", "label"]).loc[("wrong", "lesion")]
    assert counts.to_dict() == {"present": 5, "missed": 0, "absent": 1, "invented": 1}


def test_the_worst_case_is_the_one_with_a_missed_structure():
    found = numbers({"a": [LESION] * 6, "b": [LESION, LESION, MISSED, LESION, LESION, LESION]})
    shown = {s.kind: s for s in choose_shown(found, "b")}
    assert (shown["worst"].case, shown["worst"].left_out) == ("case2", 1)
    assert shown["best"].case != "case2"
    assert cell(case_table(found), "case2", 2) == "2.00 (1 missed or invented)"


def test_where_all_have_everything_the_means_are_as_ever():
    found = numbers({"a": [LESION] * 6, "b": [better(LESION, 0.1)] * 6})
    for name in "ab":
        score = found.score(name, "HD95")
        assert (score.common_mean, score.common_sd, score.common_n) == (score.mean, score.sd, score.n)
    assert structure_table(found) is None
    assert found.best("HD95") == {"b"}
    assert "failures left out" not in comparison_tables(found)[0].header
    assert make_remarks(found, {}, {}, 6, HOLM)[0] == (
        "6 cases are too few for any difference to be significant at 0.05: the smallest possible p, corrected for 3 "
        "tests, is 0.094.",
    )


def test_methods_without_a_class_in_common_are_not_compared():
    nothing = {"b": MISSED}
    found = numbers({"a": [MISSED] * 6, "b": [LESION] * 6}, organs=nothing)
    assert found.best("HD95") == set()
    assert found.test("b", "a", "HD95").n_cases == 0
    assert "no case in common" in make_headline(found, {}, HOLM, None)[0].sentence
