"""Students that start as reconstructions of trained teachers, on real images, in 2D and 3D."""

import json
import re

import pytest

from nnunet_kd.teachers.model import load_checkpoint_file
from tests.e2e.conftest import read_segmentation

STUDENT, TWIN = "nnUNetTrainerKDEnsemble", "nnUNetTrainerKDTeacher"
INHERITED = re.compile(r"Inheriting from (\S+) fold (\d) .*Dice on (\d+) patches: (teacher .*)")


def dice(printed):
    """Mean Dice of teacher and untrained student."""
    return [float(x) for x in re.findall(r"(?:teacher|student) ([\d.]+) \(", INHERITED.search(printed)[4])]


@pytest.mark.slow
@pytest.mark.parametrize(("configuration", "batch_size"), [("3d_fullres", "2"), ("2d", "32")])
def test_a_narrower_student_inherits_and_its_twin_when_told_so(workspace, teachers, configuration, batch_size):
    name = f"Heir_{configuration}"
    workspace.plan(
        name, "-c", configuration, "--student", "width=0.2,blocks=0.5,decoder=1", "--batch_size", batch_size,
        "--teachers", teachers[configuration], "schedule.iterations_per_epoch=2", "schedule.seed=3",
        "schedule.save_every=1", "student.ema=0.9", "student.twin_start=same",
    )  # fmt: skip
    printed = workspace.train(name, "0", STUDENT, configuration=configuration)
    teacher, untrained = dice(printed)
    assert teacher > 0.2  # after 60 iterations it knows one of the two structures
    assert untrained > 0.9 * teacher
    assert dice(workspace.train(name, "0", TWIN, configuration=configuration)) == [teacher, untrained]

    plans_file = workspace.preprocessed / f"{name}.json"
    plans = json.loads(plans_file.read_text())
    plans["kd"]["schedule"]["num_epochs"] = 3
    plans_file.write_text(json.dumps(plans))
    continued = workspace.train(name, "0", STUDENT, "--c", configuration=configuration)
    assert "Epoch 2" in continued
    assert INHERITED.search(continued) is None, "a continued training must not start again"
    checkpoint = load_checkpoint_file(
        workspace.results / f"{STUDENT}__{name}__{configuration}" / "fold_0" / "checkpoint_final.pth"
    )
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["kd_average"]["steps"] == 1 + 3 * 2


@pytest.mark.slow
def test_an_untrained_student_predicts_with_stock_nnunet(workspace, teachers, tmp_path):
    workspace.plan(
        "Untrained", "-c", "3d_fullres", "--student", "width=0.2,blocks=0.5,decoder=1", "--batch_size", "2",
        "--teachers", teachers["3d_fullres"], "--inherit-from", f"{teachers['3d_fullres']}:1",
        "schedule.num_epochs=1", "schedule.iterations_per_epoch=1", "schedule.seed=3", "optimizer.initial_lr=1e-12",
        "student.twin_start=same",
    )  # fmt: skip
    assert INHERITED.search(workspace.train("Untrained", "0", TWIN))[2] == "1"
    workspace.run(
        "nnUNetv2_predict", "-i", workspace.raw / "imagesTs", "-o", tmp_path / "out", "-d", "4", "-c", "3d_fullres",
        "-f", "0", "-tr", TWIN, "-p", "Untrained", "-device", "cpu", "-npp", "0", "-nps", "0",
    )  # fmt: skip
    files = list((tmp_path / "out").glob("*.nii.gz"))
    assert len(files) == 2
    assert all(read_segmentation(f).any() for f in files)
