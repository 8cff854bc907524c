"""Reading summary.json into one long table of cases, labels and metrics."""

import json

import numpy as np
import pytest

from nnunet_kd.evaluation.table import case_values
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.summaries import Summary, load_summary

NAN = float("nan")


def row(case, **metrics_of_labels):
    metrics = {key.removeprefix("_"): value for key, value in metrics_of_labels.items()}
    return {"prediction_file": f"/p/{case}.nii.gz", "reference_file": f"/r/{case}.nii.gz", "metrics": metrics}


@pytest.fixture
def summary():
    """nnU-Net's form: labels as text, counts beside Dice and IoU, NaN where both masks are empty."""
    rows = [
        row("b.1", _10={"Dice": 0.5, "IoU": 1 / 3, "TP": 7}, _2={"Dice": NAN, "IoU": NAN, "TP": 0}),
        row("a", _10={"Dice": 0.9, "IoU": 0.8, "TP": 9}, _2={"Dice": 0.1, "IoU": None, "TP": 1}),
    ]
    return {"metric_per_case": rows, "mean": {}, "foreground_mean": {}}


def labels_of(read):
    return list(read.table["label"].cat.categories)


def test_cases_are_sorted_and_labels_follow_their_numbers(summary):
    read = Summary.of(summary)
    assert read.cases == ["a", "b.1"]
    assert list(read.table) == ["case", "label", "metric", "value"]
    assert read.table[["case", "label", "metric"]].to_numpy().tolist() == [
        [case, label, metric] for case in ("a", "b.1") for label in ("2", "10") for metric in ("Dice", "IoU")
    ]
    np.testing.assert_array_equal(read.table["value"], [0.1, NAN, 0.9, 0.8, NAN, NAN, 0.5, 1 / 3])
    assert read.settings == {}


def test_one_metric_of_a_label_or_the_mean_over_labels_without_nan(summary):
    table = Summary.of(summary).table
    assert case_values(table, "Dice", "10").to_dict() == {"a": 0.9, "b.1": 0.5}
    np.testing.assert_allclose(case_values(table, "Dice"), [0.5, 0.5])


def test_a_case_without_any_value_has_a_mean_of_nan(summary, recwarn):
    for metrics in summary["metric_per_case"][0]["metrics"].values():
        metrics["Dice"] = NAN
    np.testing.assert_array_equal(case_values(Summary.of(summary).table, "Dice"), [0.5, NAN])
    assert not list(recwarn)


def test_the_mean_dice_is_nnunets(summary):
    assert np.isnan(Summary.of(summary).dice)
    assert Summary.of(summary | {"foreground_mean": {"Dice": 0.6, "IoU": None}}).dice == 0.6


def test_names_come_from_the_summary_or_from_the_caller(summary):
    summary["nnunet_kd"] = {"labels": {"2": "liver", "10": "spleen"}, "empty_masks": "nan"}
    assert labels_of(Summary.of(summary)) == ["liver", "spleen"]
    assert Summary.of(summary).settings["empty_masks"] == "nan"
    assert labels_of(Summary.of(summary, {"2": "Leber"})) == ["Leber", "spleen"]


def test_regions_are_kept_and_background_is_not():
    rows = [row("a", **{"(1, 2)": {"Dice": 0.7}, "2": {"Dice": 0.6}, "0": {"Dice": 1.0}})]
    assert labels_of(Summary.of({"metric_per_case": rows})) == ["(1, 2)", "2"]


@pytest.mark.parametrize("name", ["of metric", "of label"])
def test_unknown_names_are_refused_with_what_is_there(summary, name):
    table = Summary.of(summary).table
    arguments, there = (("HD",), "Dice, IoU") if name == "of metric" else (("Dice", "liver"), "2, 10")
    with pytest.raises(UserError, match=there):
        case_values(table, *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not a summary.json"),
        ({"metric_per_case": [3]}, "not a summary.json"),
        ({"metric_per_case": [row("a", _1={"Dice": 1}), row("b", _2={"Dice": 1})]}, "not a summary.json"),
        ({"metric_per_case": [row("a", _1=3)]}, "not a summary.json"),
        ({"metric_per_case": [row("a", _1={"Dice": "best"})]}, "not a summary.json"),
        ({"metric_per_case": [row("a", _1={"Dice": 1})], "nnunet_kd": {"labels": 7}}, "not a summary.json"),
        ({"metric_per_case": [row("a", _1={"Dice": 1})], "nnunet_kd": 7}, "not a summary.json"),
        ({"metric_per_case": [row("a", _1={"Dice": 1})], "foreground_mean": 7}, "not a summary.json"),
        ({"metric_per_case": []}, "no case"),
        ({"metric_per_case": [row("a", _1={"Dice": 1})] * 2}, "twice"),
    ],
    ids=[
        "empty",
        "not rows",
        "labels differ",
        "no metrics",
        "no number",
        "label names",
        "own",
        "mean",
        "no case",
        "double",
    ],
)
def test_what_is_no_summary_is_one_sentence_that_names_the_file(tmp_path, content, message):
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        load_summary(file)
    assert str(caught.value).startswith(str(file))


def test_nan_survives_the_way_through_the_file(tmp_path, summary):
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(summary))
    np.testing.assert_array_equal(load_summary(file).table["value"], Summary.of(summary).table["value"])


def test_a_missing_file_is_named_once(tmp_path):
    with pytest.raises(UserError) as caught:
        load_summary(tmp_path / "summary.json")
    assert str(caught.value).count("summary.json") == 1
