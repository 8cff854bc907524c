"""The driver of the trainings behind the results: order of jobs, and the table of what came out."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.experiments import jobs as jobs_module
from benchmarks.experiments.jobs import Job, select, work
from benchmarks.experiments.largest import keep_largest
from benchmarks.experiments.studies import Studies, _load, study_names
from benchmarks.experiments.tables import table


def test_jobs_run_after_what_they_need_and_only_once(tmp_path: Path) -> None:
    order: list[str] = []
    jobs = [
        Job("last", needs=["first", "second"], prepare=lambda: order.append("last")),
        Job("second", needs=["first"], prepare=lambda: order.append("second")),
        Job("first", prepare=lambda: order.append("first")),
    ]
    assert work(jobs, tmp_path, {})
    assert work(jobs, tmp_path, {})
    assert order == ["first", "second", "last"]


def test_a_job_whose_commands_changed_is_done_again_with_those_that_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(jobs_module, "_run_commands", lambda job, *_: order.append(job.name) or True)
    others = [Job("second", needs=["first"]), Job("third")]
    assert work([Job("first", [["train", "1"]]), *others], tmp_path, {})
    assert work([Job("first", [["train", "2"]]), *others], tmp_path, {})
    assert order == ["first", "second", "third", "first", "second"]


def test_a_job_that_failed_stops_those_that_need_it_and_is_tried_again(tmp_path: Path) -> None:
    attempts: list[str] = []

    def fail_once() -> None:
        attempts.append("first")
        if len(attempts) == 1:
            raise ValueError("no such data")

    jobs = [
        Job("first", prepare=fail_once),
        Job("second", needs=["first"], prepare=lambda: attempts.append("second")),
        Job("other", prepare=lambda: attempts.append("other")),
    ]
    assert not work(jobs, tmp_path, {})
    assert attempts == ["first", "other"]
    assert "no such data" in (tmp_path / "jobs" / "first.log").read_text()
    assert work(jobs, tmp_path, {})
    assert attempts == ["first", "other", "first", "second"]


def test_several_jobs_run_at_a_time(tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=30)
    assert work([Job("first", prepare=both.wait), Job("second", prepare=both.wait)], tmp_path, {}, processes=2)


PARENT = """
import multiprocessing
from nnunet_kd.utilities.forked import end_with_parent

process = multiprocessing.get_context("forkserver").Process(target=end_with_parent)
process.start()
print(process.pid, flush=True)
process.join()
"""


def test_a_command_ends_with_a_worker_that_is_killed() -> None:
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} has outlived its parent by 10 s")


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    for case in ("hippocampus_001", "SC-HF-I-01_p1", "SC-HF-NI-03_p1", "SC-HYP-01_p1", "SC-N-02_p1", "patient001_ED"):
        source = {"h": "hippocampus", "S": "sunnybrook", "p": "acdc"}[case[0]]
        folder = tmp_path / source / "labels"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{case}.nii.gz").touch()
    return Studies(tmp_path, tmp_path)


def test_every_study_has_what_it_needs(studies: Studies) -> None:
    jobs = [job for study in study_names() for job in studies.study(study)]
    commands: dict[str, object] = {}
    for job in jobs:
        assert commands.setdefault(job.name, job.commands) == job.commands, f"two different jobs {job.name}"
    known = studies.jobs()
    assert {need for job in jobs for need in job.needs} <= set(known)
    assert len(commands) > 200
    assert all(_load(f"studies/{study}.yaml")["about"] for study in study_names())


def test_a_study_brings_its_data_and_the_teachers_of_another_one(studies: Studies) -> None:
    jobs = select(studies.jobs(), [job.name for job in studies.study("acdc_tenth_long")])
    names = {job.name for job in jobs}
    assert {"data-29", "data-29-folds", "29-Half2-0", "29-Half-softlabels", "29-Tenth-long-distilled-2"} <= names
    assert not any(name.endswith("-test") or name.startswith("30") for name in names)
    (plan, train, predict, evaluate) = next(j for j in jobs if j.name == "29-Tenth-long-distilled-2").commands
    assert plan[-15:].count("student.start=inherit") == 1
    assert "schedule.num_epochs=36" in plan
    assert "schedule.seed=2" in plan
    assert train[-4:] == ["-p", "Tenth-long-distilled-2", "-device", "cpu"]
    assert predict[0] == "nnUNetv2_predict"
    assert "--disable_tta" in predict
    assert evaluate[:2] == ["nnUNetv2_kd", "evaluate"]


def test_students_of_one_study_teach_in_another(studies: Studies) -> None:
    jobs = {job.name: job for job in studies.study("acdc_second")}
    student, trained = jobs["29-Second-distilled-1"], [f"29-Tenth-longest-inherited-{i}" for i in (1, 2, 3)]
    assert list(student.needs) == ["29-Second-softlabels"]
    assert list(jobs["29-Second-softlabels"].needs) == trained
    assert "nnUNetTrainerKDTeacher__Tenth-longest-inherited-2__2d:0" in student.commands[0]
    assert not set(trained) & set(jobs), "they are trained again"
    assert "--disable_tta" not in jobs["29-Tenth-longest-inherited-1-test"].commands[0]


def test_students_that_teach_keep_their_trainer(studies: Studies) -> None:
    jobs = {job.name: job for job in studies.study("acdc_few_second")}
    teacher = "nnUNetTrainerKDEnsemble__Tenth-long-light-unlabeled-fade-2__2d:0"
    assert teacher in jobs["30-Few-second-light-unlabeled-fade-3"].commands[0]
    (predict, _) = jobs["30-Tenth-long-light-unlabeled-fade-2-test"].commands
    assert predict[predict.index("-tr") + 1] == "nnUNetTrainerKDEnsemble"


def test_teachers_can_have_settings_of_their_own(studies: Studies) -> None:
    jobs = {job.name: job for job in studies.study("acdc_teachers_light")}
    (plan,) = jobs["29-plan-Light-half2"].commands
    assert {"optimizer.initial_lr=0.003", "augmentation.mirroring=false", "schedule.seed=2"} <= set(plan)
    (other,) = {job.name: job for job in studies.study("acdc_teachers")}["29-plan-Half2"].commands
    assert {"optimizer.initial_lr=0.001", "augmentation.mirroring=true"} <= set(other)


def summary(dice: dict[str, float]) -> str:
    rows = [{"metrics": {"1": {"Dice": d}}, "prediction_file": f"{case}.nii.gz"} for case, d in dice.items()]
    return json.dumps({"metric_per_case": rows, "mean": {}, "foreground_mean": {}})


def test_table_pairs_cases_and_averages_seeds(tmp_path: Path) -> None:
    values = {
        "alone-1": {"a_p1": 0.5, "a_p2": 0.6, "b_p1": 0.7, "b_p2": 0.7},
        "alone-2": {"a_p1": 0.7, "a_p2": 0.8, "b_p1": 0.9, "b_p2": 0.9},
        "taught-1": {"a_p1": 0.7, "a_p2": 0.8, "b_p1": 0.9, "b_p2": 0.9},
    }
    for name, dice in values.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(summary(dice))
    text = table(tmp_path, ["taught"], "alone")
    assert "| taught | 0.8250 | 0.8250 | 0.0957 | +10.00 (+10.00 to +10.00) | 4 of 4 | 0.5 | 0.5 |" in text
    assert "| alone | 0.6250, 0.8250 | 0.7250 | 0.0957 | | | | |" in text
    assert "4 cases, 2 patients." in text
    assert "| taught | 0.9000 |" in table(tmp_path, ["taught"], "alone", only="b")


def test_table_takes_arms_of_a_data_set_with_the_same_cases_only(tmp_path: Path) -> None:
    for name, dice in {
        "5/few": {"a": 0.5, "b": 0.6},
        "4/all": {"a": 0.7, "b": 0.8},
        "6/other": {"a": 0.7, "c": 0.8},
    }.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "summary.json").write_text(summary(dice))
    assert "| 4/all | 0.7500 | 0.7500 | 0.0707 | +20.00 " in table(tmp_path / "5", ["4/all"], "few")
    with pytest.raises(ValueError, match="6/other and few have different cases"):
        table(tmp_path / "5", ["6/other"], "few")


def test_only_the_largest_component_of_the_named_arms_is_kept(tmp_path: Path) -> None:
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[1:4, 1:4, 1:4] = 1
    predicted = reference.copy()
    predicted[6, 6, 6] = 1
    for folder, array in (("labelsTs", reference), ("28/few-1", predicted), ("28/other-1", predicted)):
        (tmp_path / folder).mkdir(parents=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / folder / "a.nii.gz"))
        if array is predicted:
            content = {"labels": {"background": 0, "heart": 1}, "file_ending": ".nii.gz"}
            (tmp_path / folder / "dataset.json").write_text(json.dumps(content))
            (tmp_path / folder / "summary.json").write_text(summary({"a": 0.9}))
    keep_largest(tmp_path / "28", tmp_path / "labelsTs", ["few"])
    kept = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "28-largest" / "few-1" / "a.nii.gz")))
    assert np.array_equal(kept, reference)
    assert "| few | 1.0000 |" in table(tmp_path / "28-largest", ["few"], "few")
    assert not (tmp_path / "28-largest" / "other-1").exists()
