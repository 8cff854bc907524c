"""``nnUNetv2_kd distill``: which commands, which of them are skipped, and what is said at the end."""

import argparse
import importlib
import json
import pickle
import shlex
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from nnunet_kd.cli import main
from nnunet_kd.distill import prepare as preparing
from nnunet_kd.distill import run as running
from nnunet_kd.distill.prepare import claim, prepare
from nnunet_kd.distill.request import Request
from nnunet_kd.distill.run import run_steps
from nnunet_kd.distill.step import Step
from nnunet_kd.distill.summary import summarise
from nnunet_kd.utilities.errors import UserError
from tests.model_folders import write_validation
from tests.unit.toy_dataset import make_toy

TEACHER = "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A planned data set with a teacher of two finished folds, and a test case."""
    toy = make_toy(tmp_path, monkeypatch, cases=1)
    add_teacher(toy, TEACHER)
    monkeypatch.setattr(preparing, "can_make_bundles", lambda: True)
    for folder, name in (("imagesTs", "case_9_0000"), ("labelsTs", "case_9")):
        (toy.raw / folder).mkdir()
        (toy.raw / folder / f"{name}.nii.gz").touch()
    return toy


def add_teacher(toy, name, folds=(0, 1)):
    folder = toy.results / name
    for fold in folds:
        (folder / f"fold_{fold}" / "validation").mkdir(parents=True)
        checkpoint = {"network_weights": {}, "trainer_name": "nnUNetTrainer"}
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
        write_validation(folder / f"fold_{fold}", 0.9)
    for file in ("nnUNetPlans.json", "dataset.json"):
        (folder / file.replace("nnUNetPlans", "plans")).write_text((toy.preprocessed / file).read_text())


def request(toy, **changes):
    test = (toy.raw / "imagesTs", toy.raw / "labelsTs")
    return replace(Request("900", "3d_fullres", name="Small", test=test, twin=True, device="cpu"), **changes)


def commands(distillation):
    return [list(step.command) for group in distillation.steps() for step in group]


def test_every_command_is_one_that_a_user_may_type(toy):
    for line in map(shlex.join, commands(prepare(request(toy, student="width=0.5", settings=("schedule.seed=1",))))):
        name, *words = shlex.split(line)
        if name != "nnUNetv2_kd":
            assert name in {"nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_predict_from_modelfolder"}
            continue
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(f"nnunet_kd.commands.{words[0].replace('-', '_')}").add_arguments(parser)
        parser.parse_args(words[1:])


def test_the_order_is_plans_labels_trainings_predictions_times_report(toy):
    found = [c[1] if c[0] == "nnUNetv2_kd" else c[0] for c in commands(prepare(request(toy)))]
    predictions = ["nnUNetv2_predict_from_modelfolder", "nnUNetv2_predict", "nnUNetv2_predict"]
    assert found == [
        "plan",
        "softlabels",
        "nnUNetv2_train",
        "nnUNetv2_train",
        *predictions,
        "benchmark",
        "report",
        "export",
    ]
    groups = prepare(request(toy)).steps()
    assert [len(group) for group in groups] == [1, 1, 2, 1, 1, 1, 1, 1, 1]  # student and twin side by side


def test_teachers_in_several_folders_are_an_ensemble_of_their_probabilities(toy):
    add_teacher(toy, "nnUNetTrainer__Other__3d_fullres", folds=(0,))
    teachers = (TEACHER, "nnUNetTrainer__Other__3d_fullres:0")
    found = commands(prepare(request(toy, teachers=teachers, twin=False)))
    first, second, ensemble = found[3:6]
    assert first[-5:-4] == second[-5:-4] == ["--save_probabilities"]
    assert ensemble[0] == "nnUNetv2_ensemble"
    assert ensemble[2:4] == [first[4], second[4]]
    model = found[-3][found[-3].index("--model") + 1]
    assert model == f"ensemble={toy.results / TEACHER}:0,1,{toy.results / teachers[1]}"


def test_images_that_are_not_preprocessed_and_unlabeled_ones_have_steps_of_their_own(toy):
    (toy.preprocessed / "nnUNetPlans_3d_fullres").rename(toy.preprocessed / "elsewhere")
    found = commands(prepare(request(toy, settings=("unlabeled.fraction=0.5",))))
    assert found[1][:1] == ["nnUNetv2_preprocess"]
    assert found[2][:2] == ["nnUNetv2_kd", "preprocess-unlabeled"]


def test_a_training_is_continued_validated_or_left_alone(toy):
    folder = toy.results / "nnUNetTrainerKDEnsemble__Small__3d_fullres" / "fold_0"
    folder.mkdir(parents=True)

    def student(fold="0"):
        steps = (s for group in prepare(request(toy, fold=fold)).steps() for s in group)
        return next(s for s in steps if s.log == "train_student")

    assert student().command[-2:] == ["-device", "cpu"]
    (folder / "checkpoint_latest.pth").touch()
    assert student().command[-1] == "--c"
    (folder / "checkpoint_final.pth").touch()
    assert student().command[-1] == "--val"
    assert not student().is_finished()
    write_validation(folder, 0.8)
    assert student().is_finished()
    assert student().command[-2:] == ["-device", "cpu"]
    (folder.parent / "fold_all").mkdir()
    assert not student("all").is_finished()
    (folder.parent / "fold_all" / "checkpoint_final.pth").touch()
    assert student("all").is_finished()  # there is nothing to validate on


def test_dry_run_prints_and_writes_nothing(toy, capsys):
    before = sorted(toy.root.rglob("*"))
    arguments = ["-d", "900", "-c", "3d_fullres", "--student", "width=0.5", "-device", "cpu", "--dry-run"]
    main(["distill", *arguments, "--test", str(toy.raw / "imagesTs"), str(toy.raw / "labelsTs")])
    printed = capsys.readouterr().out
    assert (
        "nnUNetv2_kd plan -d 900 -c 3d_fullres -p nnUNetPlans -o nnUNetPlansKD_width0p5 --student width=0.5" in printed
    )
    assert "nnUNet_n_proc_DA=0 OMP_NUM_THREADS=1 nnUNetv2_train 900 3d_fullres all" in printed
    assert sorted(toy.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-f", "x"], "-f x: expected a fold's number, or all"),
        (["-np", "0"], "-np 0: expected at least 1"),
        (["--test", "nowhere", "nowhere"], "--test nowhere: no such folder"),
        (["--recipe", "nobody2000"], "--recipe nobody2000: no such recipe"),
        (["--teachers", "nnUNetTrainer__Missing__3d_fullres"], "no such model folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_run(toy, capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(["distill", "-d", "900", "-c", "3d_fullres", "-device", "cpu", *arguments])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not list(toy.results.glob("distill_*"))


def test_cascades_are_refused(toy):
    plans = json.loads((toy.preprocessed / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"] | {"next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    (toy.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(UserError, match="second stage of a cascade"):
        prepare(request(toy, configuration="3d_cascade_fullres"))


def test_plans_of_something_else_are_not_taken_over(toy):
    distillation = prepare(request(toy))
    claim(distillation)
    (toy.preprocessed / "Small.json").write_text("{}")
    claim(prepare(request(toy)))
    claim(prepare(request(toy, fold="0")))  # the same plans
    with pytest.raises(UserError, match=r"Small\.json: is there already and was made otherwise"):
        claim(prepare(request(toy, student="width=0.5")))


@pytest.fixture
def ran(monkeypatch):
    """Logs of the steps that were run, without running them."""
    order: list[str] = []

    def run(steps, logs, progress, go_on):
        order.extend(step.log for step in steps)
        for step in steps:
            running._mark(step, logs).write_text(str(step))
        return {}

    monkeypatch.setattr(running, "_run_together", run)
    return order


def test_what_is_finished_is_skipped_and_what_follows_something_new_is_done_again(tmp_path, ran):
    files = {name: tmp_path / name for name in ("training", "prediction", "report")}

    def steps():
        return [
            [Step("labels", ["export"], "labels")],
            [Step("training", ["train"], "training", files["training"].is_file, epochs=3)],
            [Step("prediction", ["predict"], "prediction", files["prediction"].is_file, follows=True)],
            [Step("report", ["report"], "report", files["report"].is_file, follows=True)],
        ]

    everything = ["labels", "training", "prediction", "report"]
    run_steps(steps(), tmp_path / "logs", False, "")
    assert ran == everything
    ran.clear()
    for file in files.values():
        file.touch()
    run_steps(steps(), tmp_path / "logs", False, "")
    assert ran == ["labels"]
    ran.clear()
    files["prediction"].unlink()
    run_steps(steps(), tmp_path / "logs", False, "")
    assert ran == ["labels", "prediction", "report"]
    ran.clear()
    (tmp_path / "logs" / "prediction.done").unlink()  # stopped in the middle
    run_steps(steps(), tmp_path / "logs", False, "")
    assert ran == ["labels", "prediction", "report"]


def test_a_failed_step_says_where_its_log_is_and_how_to_go_on(tmp_path):
    with pytest.raises(UserError) as error:
        run_steps([[Step("plans", ["nnUNetv2_kd", "nonsense"], "plans")]], tmp_path, False, "nnUNetv2_kd distill -d 1")
    assert "nnUNetv2_kd failed with exit code 2" in str(error.value)
    assert "invalid choice: 'nonsense'" in str(error.value)
    assert str(tmp_path / "plans.log") in str(error.value)
    assert str(error.value).endswith("To go on: nnUNetv2_kd distill -d 1")
    assert not (tmp_path / "plans.done").exists()


@pytest.fixture
def ctrl_c_is_heard():
    """Background jobs of a shell start with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_ends_what_runs_and_says_in_a_sentence_how_to_go_on(tmp_path, capsys, monkeypatch):
    ended = []
    monkeypatch.setattr(running, "_end", lambda process: (ended.append(process), process.terminate(), process.join()))
    monkeypatch.setattr(running, "wait", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    step = Step("plans", ["nnUNetv2_kd", "--help"], "plans")
    command = SimpleNamespace(
        add_arguments=lambda parser: None,
        run=lambda args: run_steps([[step]], tmp_path, False, "nnUNetv2_kd distill X"),
    )
    monkeypatch.setitem(sys.modules, "nnunet_kd.commands.distill", command)
    with pytest.raises(SystemExit) as stop:
        main(["distill"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "\nnnunet_kd: stopped. To go on: nnUNetv2_kd distill X\n"
    assert len(ended) == 1
    assert not (tmp_path / "plans.done").exists()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"params": "500k"}, "nnUNetPlansKD_params500k"),
        ({"student": "blocks=0.5", "params": "500k"}, "nnUNetPlansKD_blocks0p5_params500k"),
        ({"latency_budget_ms": 12.5}, "nnUNetPlansKD_12p5ms"),
        ({"student": "decoder=1", "latency_budget_ms": 5}, "nnUNetPlansKD_decoder1_5ms"),
    ],
)
def test_a_name_that_is_not_given_tells_the_budget(toy, changes, name):
    assert prepare(request(toy, name=None, **changes)).plans == name


def test_students_of_peers_or_of_probability_maps_need_no_trained_teachers(toy, tmp_path):
    for folder in (toy.results / TEACHER).glob("fold_*"):
        (folder / "checkpoint_final.pth").unlink()
    cross = ("student.trainer=nnUNetTrainerKDCrossTeaching", "cross_teaching.unlabeled.weight=0")
    for settings in (cross, (f"ensemble.from_folder={tmp_path}",)):
        distillation = prepare(request(toy, settings=settings))
        found = commands(distillation)
        assert not any(c[0] == "nnUNetv2_predict_from_modelfolder" for c in found)
        assert not any("ensemble" in word.split("=")[0] for c in found[-3:-1] for word in c)
        assert [c[1] for c in found].count("softlabels") == (settings is not cross)
        with pytest.raises(UserError, match="--test: no trained networks teach this student"):
            prepare(request(toy, settings=settings, twin=False))
        assert prepare(request(toy, settings=settings, twin=False, test=None)).teachers == ()


def test_a_peer_without_plans_is_told_before_anything_is_run(toy):
    settings = ("student.trainer=nnUNetTrainerKDCrossTeaching", 'cross_teaching.teachers=["Other"]')
    with pytest.raises(UserError, match=r"Other\.json: not there; cross_teaching\.teachers names its network"):
        prepare(request(toy, settings=settings))


def test_without_test_cases_the_validation_is_shown_for_what_it_is(toy):
    distillation = prepare(request(toy, test=None, fold="0"))
    for name, dice in (("student", 0.85), ("twin", 0.8)):
        write_validation(distillation.students[name] / "fold_0", dice)
    text = summarise(distillation)
    assert "student: Dice 0.8500" in text
    assert "twin: Dice 0.8000" in text
    assert f"one teacher, {TEACHER}: Dice 0.9000" in text
    assert "may have been trained on these cases" in text
    assert "Nothing was compared" in summarise(prepare(request(toy, test=None)))


def test_the_summary_has_what_was_kept_and_what_it_costs(toy):
    distillation = prepare(request(toy))
    made = distillation.on_test_cases
    scores = [
        {"method": m, "label": "mean", "metric": "Dice", "common_mean": d, "failures": 0}
        for m, d in (("ensemble", 0.8), ("student", 0.796), ("twin", 0.75))
    ]
    headline = [{"sentence": "Dice."}, {"sentence": "student spends 40 times less network time."}]
    (made / "report").mkdir(parents=True)
    (made / "report" / "report.json").write_text(json.dumps({"scores": scores, "headline": headline}))
    lines = summarise(distillation).splitlines()
    assert lines[0] == "Dice 0.7960, the ensemble's is 0.8000: 99.5% kept."
    assert lines[1] == "Without teachers the same network has 0.7500: +4.6 points by distillation."
    assert lines[2] == "student spends 40 times less network time."
    assert lines[3] == f"Report: {made / 'report' / 'report.html'}"
    assert lines[4].endswith(str(distillation.bundle))
    assert lines[5].endswith("nnUNetTrainerKDEnsemble__Small__3d_fullres, fold all")
    (made / "report" / "report.json").write_text(json.dumps({"scores": scores[1:], "headline": headline}))
    lines = summarise(replace(distillation, teachers=())).splitlines()
    assert lines[0] == "Dice 0.7960."
    assert lines[1] == "Without teachers the same network has 0.7500: +4.6 points by distillation."


def test_what_cannot_be_compared_is_not_turned_into_a_number(toy):
    distillation = prepare(request(toy))
    scores = [
        {"method": m, "label": "mean", "metric": "Dice", "common_mean": d, "failures": f}
        for m, d, f in (("ensemble", 0.8, 0), ("student", None, 2), ("twin", 0.7, 0))
    ]
    report = distillation.on_test_cases / "report" / "report.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"scores": scores, "headline": [{"sentence": "Costs."}]}))
    lines = summarise(distillation).splitlines()
    assert lines[0].startswith("Dice of student and ensemble cannot be compared")
    assert lines[1] == "The student missed or invented 2 structures, which these means leave out."


def test_no_more_cases_are_timed_than_there_are(toy):
    benchmark = next(c for c in commands(prepare(request(toy))) if c[1] == "benchmark")
    assert benchmark[benchmark.index("-n") + 1] == "1"
    (toy.raw / "labelsTs" / "case_9.nii.gz").unlink()
    with pytest.raises(UserError, match="no reference segmentations there"):
        prepare(request(toy))


def test_a_teacher_that_could_run_code_is_refused_before_anything_is_run(toy):
    (toy.results / TEACHER / "fold_1" / "checkpoint_final.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(UserError, match="fold_1"):
        claim(prepare(request(toy)))
    assert not list(toy.results.glob("distill_*"))


def test_without_its_packages_there_is_no_bundle(toy, monkeypatch):
    monkeypatch.setattr(preparing, "can_make_bundles", lambda: False)
    distillation = prepare(request(toy, test=None))
    assert commands(distillation)[-1][0] == "nnUNetv2_train"
    assert "No bundle was made; pip install 'nnunet-kd[export]'" in summarise(distillation)
