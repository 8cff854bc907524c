"""Students trained, resumed, validated and predicted with nnU-Net's own commands."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_kd.teachers.model import load_checkpoint_file
from tests.e2e.conftest import SMALL, read_segmentation

STUDENT = "nnUNetTrainerKDEnsemble"


@pytest.fixture(scope="module")
def student(workspace, teachers) -> Path:
    """A student of two teachers after training, with its model folder."""
    workspace.plan(
        "Student", "-c", "3d_fullres", "--student", SMALL, "--teachers", teachers["3d_fullres"],
        "--batch_size", "2", "schedule.iterations_per_epoch=8", "schedule.seed=3", "schedule.save_every=1",
        "ensemble.name=student", "distillation.mse.weight=1",
        "distillation.soft_dice.weight=0.5", "distillation.soft_ce.weight=0.1",
    )  # fmt: skip
    printed = workspace.train("Student", "0", STUDENT)
    assert "optimistic" in printed, "teacher fold 1 saw this fold's validation cases, the log must say so"
    return workspace.results / f"{STUDENT}__Student__3d_fullres"


def test_missing_soft_labels_are_exported_when_training_starts(workspace, student):
    log = next((student / "fold_0").glob("training_log*")).read_text()
    assert "Soft labels of 6 cases are missing" in log
    assert "Soft labels against the reference" in log


def test_the_checkpoint_is_a_stock_one(student):
    checkpoint = load_checkpoint_file(student / "fold_0" / "checkpoint_final.pth")
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["inference_allowed_mirroring_axes"] is None
    assert not [k for k in checkpoint["network_weights"] if not k.startswith(("encoder.", "decoder."))]
    assert json.loads((student / "plans.json").read_text())["kd"]["distillation"]["mse"]["weight"] == 1


def test_every_loss_term_has_its_curve(student):
    log = load_checkpoint_file(student / "fold_0" / "checkpoint_final.pth")["logging"]
    for name in ("kd_hard", "kd_mse", "kd_soft_ce", "kd_soft_dice"):
        assert len(log[name]) == 2
        assert np.isfinite(log[name]).all()
    assert (student / "fold_0" / "progress.png").stat().st_size > 10_000


def test_validation_compares_with_the_teachers_on_the_same_cases(workspace, student):
    printed = workspace.train("Student", "0", STUDENT, "--val")
    assert "Mean Validation Dice" in printed
    assert "Validation Dice on the same 2 cases: student" in printed


def test_training_continues_where_it_stopped(workspace, student):
    plans_file = workspace.preprocessed / "Student.json"
    plans = json.loads(plans_file.read_text())
    plans["kd"]["schedule"]["num_epochs"] = 3
    plans_file.write_text(json.dumps(plans))
    printed = workspace.train("Student", "0", STUDENT, "--c")
    assert "Epoch 2" in printed
    assert "Epoch 1 " not in printed
    log = load_checkpoint_file(student / "fold_0" / "checkpoint_final.pth")["logging"]
    assert len(log["kd_hard"]) == len(log["train_losses"]) == 3


def test_stock_predict_without_this_package(workspace, student, tmp_path):
    """The same site-packages without nnunet_kd: what a hospital that only has nnU-Net would run."""
    here = Path(torch.__file__).parents[1]
    bare = tmp_path / "site-packages"
    bare.mkdir()
    for entry in here.iterdir():
        if "nnunet_kd" not in entry.name:
            (bare / entry.name).symlink_to(entry)
    environment = workspace.environment | {"PYTHONPATH": str(bare)}
    environment.pop("nnUNet_extTrainer", None)

    def run(code, *arguments):
        return subprocess.run(
            [sys.executable, "-S", "-c", code, *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )

    absent = run("import nnunet_kd")
    assert "ModuleNotFoundError: No module named 'nnunet_kd'" in absent.stderr
    code = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point as main; main()"
    for output, where in ((tmp_path / "bare", run), (tmp_path / "with", None)):
        arguments = [
            "-i", workspace.raw / "imagesTs", "-o", output, "-d", "4", "-c", "3d_fullres", "-f", "0", "-tr",
            STUDENT, "-p",
            "Student", "-device", "cpu", "-npp", "0", "-nps", "0",
        ]  # fmt: skip
        if where is None:
            workspace.run("nnUNetv2_predict", *arguments)
        else:
            result = where(code, *arguments)
            assert result.returncode == 0, result.stderr[-3000:]
    files = sorted(p.name for p in (tmp_path / "bare").glob("*.nii.gz"))
    assert len(files) == 2
    for name in files:
        np.testing.assert_array_equal(
            read_segmentation(tmp_path / "bare" / name), read_segmentation(tmp_path / "with" / name)
        )


def test_plain_plans_need_no_preparation_but_finished_teachers(workspace):
    printed = workspace.train("nnUNetPlans", "0", STUDENT, code=2)
    assert "Traceback" not in printed
    assert "nnUNetv2_train Dataset004_Hippocampus 3d_fullres FOLD -tr nnUNetTrainer -p nnUNetPlans" in printed


def test_plain_plans_distil_the_finished_default_folds(workspace, teachers, monkeypatch):
    default = workspace.results / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    default.symlink_to(workspace.results / teachers["3d_fullres"])
    for key, value in workspace.environment.items():
        monkeypatch.setenv(key, value)
    try:
        trainer = get_trainer_from_args("4", "3d_fullres", 0, STUDENT, "nnUNetPlans", device=torch.device("cpu"))
        trainer.initialize()
        training, validation = trainer.get_tr_and_val_datasets()
        assert [m.folds for m in trainer.teaching_ensemble().models] == [(0, 1)]
    finally:
        default.unlink()
    assert trainer.kd_loss.terms, "the default must distil"
    loader = nnUNetDataLoader(training, 1, (40, 56, 40), (40, 56, 40), trainer.label_manager)
    data = next(loader)["data"]
    assert data.shape[1] == 1 + 3
    assert len(validation.identifiers) == 2


@pytest.mark.parametrize(
    ("configuration", "settings"),
    [
        ("2d", ["distillation.kl.weight=1"]),
        ("3d_fullres", ["distillation.kl.weight=1", "distillation.kl.ramp=gaussian", "schedule.precision=bf16"]),
        ("3d_fullres", ["student.start=best_member", "hard_loss.name=ce", "distillation.mse.weight=1"]),
        ("3d_lowres", ["distillation.deep_supervision=false", "distillation.kl.weight=1", "student.mirroring=true"]),
    ],
)
def test_one_step_of_other_configurations(workspace, teachers, monkeypatch, configuration, settings):
    for key, value in workspace.environment.items():
        monkeypatch.setenv(key, value)
    best = "student.start=best_member" in settings
    base = teachers[configuration].split("__")[1]
    name = f"Step_{configuration}_{abs(hash(tuple(settings)))}"
    workspace.plan(
        name, "-c", configuration, "--teachers", teachers[configuration] + ":0", "--student", "same",
        *settings, "--batch_size",
        "2", "schedule.seed=5", base=base,
    )  # fmt: skip
    trainer = get_trainer_from_args("4", configuration, 0, STUDENT, name, device=torch.device("cpu"))
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    if best:
        teacher = load_checkpoint_file(workspace.results / teachers[configuration] / "fold_0" / "checkpoint_final.pth")[
            "network_weights"
        ]
        for key, value in trainer.bare_network.state_dict().items():
            torch.testing.assert_close(value, teacher[key])
    result = trainer.train_step(next(trainer.dataloader_train))
    assert result["kd_hard"] > -1
    assert {k for k in result if k.startswith("kd_")} == {"kd_hard", *(f"kd_{t}" for t in trainer.kd_loss.terms)}
    assert all(np.isfinite(v).all() for v in result.values())
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        assert np.isfinite(trainer.validation_step(next(trainer.dataloader_val))["loss"])
    mirrored = trainer.inference_allowed_mirroring_axes is not None
    assert mirrored == ("student.mirroring=true" in settings)


def test_equal_seeds_give_equal_steps(workspace, teachers, monkeypatch):
    for key, value in workspace.environment.items():
        monkeypatch.setenv(key, value)
    workspace.plan(
        "Seeded", "-c", "3d_fullres", "--student", SMALL, "--teachers", teachers["3d_fullres"] + ":0",
        "--batch_size",
        "2", "schedule.seed=11", "distillation.kl.weight=1",
    )  # fmt: skip
    losses = []
    for _ in range(2):
        trainer = get_trainer_from_args("4", "3d_fullres", 0, STUDENT, "Seeded", device=torch.device("cpu"))
        trainer.on_train_start()
        trainer.on_train_epoch_start()
        losses.append([float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_bad_kd_block_stops_training_with_one_sentence(workspace, teachers):
    workspace.plan("Wrong", "-c", "3d_fullres", "--teachers", teachers["3d_fullres"])
    file = workspace.preprocessed / "Wrong.json"
    plans = json.loads(file.read_text())
    plans["kd"]["schedule"]["num_epoch"] = 3
    file.write_text(json.dumps(plans))
    printed = workspace.train("Wrong", "0", STUDENT, code=2)
    assert "kd.schedule.num_epoch: unknown key" in printed
    assert "Traceback" not in printed
