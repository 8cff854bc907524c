"""``nnUNetv2_kd benchmark`` without measuring: what it takes, what it refuses, what its tables say."""

import errno
import json
import os
import sys
from dataclasses import make_dataclass
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from nnunet_kd.benchmark import candidates, run
from nnunet_kd.benchmark.candidates import Candidate, Conditions, find_candidates, find_cases
from nnunet_kd.benchmark.model_spec import parse_model
from nnunet_kd.benchmark.network import rotated
from nnunet_kd.benchmark.table import format_benchmark
from nnunet_kd.cli import main
from nnunet_kd.utilities import files
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_plan_command import DATASET_JSON, make_model, write_json

A, B = "A__nnUNetPlans__3d_fullres", "B__nnUNetPlans__3d_fullres"


@pytest.fixture
def results(tmp_path) -> Path:
    make_model(tmp_path / "results" / "Dataset900_Toy", A)
    make_model(tmp_path / "results" / "Dataset900_Toy", B)
    return tmp_path / "results" / "Dataset900_Toy"


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for case in ("c10", "c1", "c1_2"):
        (folder / f"{case}_0000.nii.gz").touch()
    (folder / "notes.txt").touch()
    return folder


def find(results: Path, *models: str, **options) -> list[Candidate]:
    return find_candidates([parse_model(m.replace("RESULTS", str(results))) for m in models], **options)


def refuse(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["benchmark", *map(str, arguments)])
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_models_folders_and_mirroring(results):
    both, plain = find(results, f"both=RESULTS/{A}:0,RESULTS/{B}", f"plain=RESULTS/{A}", without_mirroring=["plain"])
    assert [(m.folder.name, m.folds) for m in both.models] == [(A, (0,)), (B, (0, 1))]
    assert (both.mirroring, plain.mirroring) == (True, False)


def test_another_candidate_comes_first_in_each_run():
    names = [Candidate(n, (), True) for n in "abc"]
    assert ["".join(c.name for c in rotated(names, run)) for run in range(4)] == ["abc", "bca", "cab", "abc"]


def test_models_that_cannot_be_compared(results, tmp_path):
    with pytest.raises(UserError, match="given twice"):
        find(results, f"a=RESULTS/{A}", f"a=RESULTS/{B}")
    with pytest.raises(UserError, match="--no_mirroring c: no such model; there are a"):
        find(results, f"a=RESULTS/{A}", without_mirroring=["c"])
    make_model(results, "A__nnUNetPlans__3d_cascade_fullres")
    with pytest.raises(UserError, match="second stage of a cascade"):
        find(results, "a=RESULTS/A__nnUNetPlans__3d_cascade_fullres")
    elsewhere = make_model(tmp_path, A)
    with pytest.raises(UserError, match="DatasetXXX_NAME"):
        find(results, f"a={elsewhere}")
    write_json(results / B / "dataset.json", DATASET_JSON | {"channel_names": {"0": "CT", "1": "PET"}})
    with pytest.raises(UserError, match=r"numbers of image channels \(1, 2\)"):
        find(results, f"a=RESULTS/{A}", f"b=RESULTS/{B}")
    write_json(results / B / "dataset.json", DATASET_JSON | {"file_ending": ".tif"})
    with pytest.raises(UserError, match=r"file endings \(.nii.gz, .tif\)"):
        find(results, f"a=RESULTS/{A}", f"b=RESULTS/{B}")


def test_cases_are_the_first_by_name(results, images):
    model = find(results, f"a=RESULTS/{A}")[0].models[0]
    assert list(find_cases(images, model, None)) == ["c1", "c10", "c1_2"]
    assert find_cases(images, model, 1) == {"c1": [images / "c1_0000.nii.gz"]}


@pytest.mark.parametrize("number", [0, -1, 4])
def test_a_number_of_cases_that_are_not_there(results, images, number):
    with pytest.raises(UserError, match=f"-n {number}: expected 1 to 3"):
        find_cases(images, find(results, f"a=RESULTS/{A}")[0].models[0], number)


def test_images_that_are_not_there(results, images):
    write_json(results / A / "dataset.json", DATASET_JSON | {"channel_names": {"0": "CT", "1": "PET"}})
    model = find(results, f"a=RESULTS/{A}")[0].models[0]
    with pytest.raises(UserError, match=r"c1_0001.nii.gz is missing"):
        find_cases(images, model, None)
    for folder in (images / "nowhere", results):
        with pytest.raises(UserError, match=r"no images named CASE_0000.nii.gz"):
            find_cases(folder, model, None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_a_name_that_simpleitk_dies_of_is_refused(results, images):
    Path(os.fsdecode(os.fsencode(images) + b"/c\xff_0000.nii.gz")).touch()
    with pytest.raises(UserError, match=r"c\\xff_0000.nii.gz is not UTF-8"):
        find_cases(images, find(results, f"a=RESULTS/{A}")[0].models[0], None)


def test_bad_options_leave_nothing_behind(results, images, tmp_path, capsys):
    out = tmp_path / "out"
    usual = ("--model", f"a={results / A}", "-i", images, "-o", out, "-device", "cpu")
    assert "expected NAME=FOLDER" in refuse(capsys, "--model", results / A, *usual[2:])
    assert "at most 60 characters" in refuse(capsys, "--model", f"{'n' * 61}={results / A}", *usual[2:])
    assert "--runs 0: expected at least 1" in refuse(capsys, *usual, "--runs", "0")
    assert "0 for both or for neither" in refuse(capsys, *usual, "-npp", "0")
    assert "fold_9" in refuse(capsys, "--model", f"a={results / A}:9", *usual[2:])
    for file in (results / A).glob("fold_*/checkpoint_final.pth"):
        file.write_bytes(b"")
    assert "not a readable nnU-Net checkpoint" in refuse(capsys, *usual)
    assert not [f for f in out.rglob("*") if f.is_file()]


def test_a_previous_benchmark_is_kept(results, images, tmp_path, capsys):
    (tmp_path / "benchmark.json").write_text("mine")
    usual = ("--model", f"a={results / A}", "-i", images, "-device", "cpu")
    assert "--overwrite" in refuse(capsys, *usual, "-o", tmp_path)
    assert (tmp_path / "benchmark.json").read_text() == "mine"
    assert "cannot be made a folder" in refuse(capsys, *usual, "-o", tmp_path / "benchmark.json")


def measured(seconds: list[float], cost: dict) -> dict:
    keys = ("predict_seconds_per_case", "peak_rss_mb", "cpu_time_percent_s")
    no_gpu = {"peak_device_mb": None, "device_memory_time_mb_s": None}
    return {"cost": cost, "network_seconds": seconds, **dict.fromkeys(keys, seconds), **no_gpu}


COST = {"parameters": 4_000_000, "flops_per_patch": 2_500_000_000, "macs_per_patch": 1_250_000_000}
COST |= {"passes_per_case": 16, "flops_per_case": 40_000_000_000, "macs_per_case": 20_000_000_000}
CHEAP = {k: v // 4 for k, v in COST.items()}
BENCHMARK = {
    "device": "cpu",
    "machine": "two cores",
    "versions": {"torch": "2"},
    "cases": 3,
    "runs": 1,
    "warm_up": "one case",
    "no_device_memory": "no GPU in use (-device cpu)",
    "reference": "ensemble",
    "models": {"ensemble": measured([8, 12, 40], COST), "student": measured([2, 1, 4], CHEAP)},
}


def cells(text: str, name: str) -> list[list[str]]:
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [row[1:] for row in rows if row[0] == name]


def test_tables_by_hand():
    text = format_benchmark(BENCHMARK)
    assert "3 cases, 1 run, device cpu" in text
    # pair by pair: 4, 12, 10; not the ratio of the medians, which is 6
    assert cells(text, "network, s per case") == [["10x (4 to 12)"], ["12 (8 to 40)", "2 (1 to 4)"]]
    assert cells(text, "parameters") == [["4x"], ["4,000,000", "1,000,000"]]
    assert cells(text, "GFLOPs per patch") == [["4x"], ["2.500", "0.625"]]
    assert cells(text, "GMACs per case") == [["20", "5"]]
    assert text.index("ensemble / model") < text.index("12 (8 to 40)")


def test_without_a_gpu_its_rows_say_so():
    missing = "not measured: no GPU in use (-device cpu)"
    assert cells(format_benchmark(BENCHMARK), "peak GPU memory, MB") == [[missing], [missing, missing]]


def test_the_networks_alone_can_be_timed(results, images, tmp_path, monkeypatch):
    candidates = find(results, f"ensemble=RESULTS/{A}:0", f"student=RESULTS/{B}")
    conditions = Conditions(find_cases(images, candidates[0].models[0], 1), 1, torch.device("cpu"))
    times = {c.name: {"network_seconds": [2.0], "network_seconds_of_runs": [2.0]} for c in candidates}
    monkeypatch.setattr(run, "count_models", lambda *_: make_dataclass("Cost", COST)(**COST))
    monkeypatch.setattr(run, "measure_command", lambda *_: pytest.fail("nnUNetv2_predict was run"))
    monkeypatch.setattr(run, "time_networks", lambda *_: times)
    benchmark = run.run_benchmark(candidates, conditions, tmp_path, network_only=True)
    text = format_benchmark(json.loads(json.dumps(benchmark)))
    assert cells(text, "network, s per case") == [["1x"], ["2", "2"]]
    assert cells(text, "nnUNetv2_predict, s per case") == [["not measured"], ["not measured"] * 2]
    assert cells(text, "peak resident memory, MB")[1] == ["not measured"] * 2


def test_a_single_model_has_no_ratios_and_folders_may_differ():
    cost = COST | {"flops_per_patch": None}
    text = format_benchmark(BENCHMARK | {"models": {"ensemble": measured([1], cost)}})
    assert cells(text, "GFLOPs per patch") == [["differs between folders"]]
    assert cells(text, "parameters") == [["4,000,000"]]


def test_a_full_disk_keeps_what_was_measured_on_the_screen(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(candidates, "find_candidates", lambda *_: [Candidate("a", (Mock(),), True)])
    monkeypatch.setattr(candidates, "find_cases", lambda *_: {})
    monkeypatch.setattr(run, "run_benchmark", lambda *_: BENCHMARK)
    monkeypatch.setattr(files, "sync_to_disk", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "--model", "a=b", "-i", "images", "-o", str(tmp_path / "out"), "-device", "cpu"])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "10x (4 to 12)" in printed.out
    assert "benchmark.json: cannot be written (No space left" in printed.err
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["logs"]


def test_a_benchmark_read_back_from_json_gives_the_same_tables():
    assert format_benchmark(json.loads(json.dumps(BENCHMARK))) == format_benchmark(BENCHMARK)
