"""Both stages of a cascade, each distilled from the teachers of its configuration; stock nnU-Net predicts them."""

import json

import numpy as np
import pytest

from nnunet_kd.teachers.model import load_checkpoint_file
from tests.e2e.conftest import SMALL, TEST, read_segmentation

LOWRES, CASCADE = "3d_lowres", "3d_cascade_fullres"
TEACHER, STUDENT = "nnUNetTrainerKDTeacher", "nnUNetTrainerKDEnsemble"


@pytest.fixture(scope="module")
def cascade(workspace) -> str:
    """Trains both stages of teacher and student; returns what the student's second stage printed."""
    plans = json.loads((workspace.preprocessed / "nnUNetPlans.json").read_text()) | {"plans_name": "CascadePlans"}
    plans["configurations"][LOWRES] |= {"next_stage": CASCADE}
    plans["configurations"][CASCADE] = {"inherits_from": "3d_fullres", "previous_stage": LOWRES}
    (workspace.preprocessed / "CascadePlans.json").write_text(json.dumps(plans))
    short = ["schedule.num_epochs=1", "schedule.iterations_per_epoch=10", "schedule.seed=1"]
    common = ["-c", CASCADE, "--student", SMALL, "--batch_size", "2", *short]
    workspace.plan("CascadeTeacher", "--role", "teacher", *common, base="CascadePlans")
    workspace.train("CascadeTeacher", "all", TEACHER, configuration=LOWRES)
    workspace.train("CascadeTeacher", "0", TEACHER, configuration=CASCADE)
    workspace.plan("CascadeStudent", "-tr", TEACHER, *common, base="CascadeTeacher")
    workspace.train("CascadeStudent", "all", STUDENT, configuration=LOWRES)
    return workspace.train("CascadeStudent", "0", STUDENT, configuration=CASCADE)


def test_each_stage_has_the_teachers_of_its_configuration(workspace, cascade):
    for configuration, fold in ((LOWRES, "all"), (CASCADE, "0")):
        folder = workspace.results / f"{STUDENT}__CascadeStudent__{configuration}" / f"fold_{fold}"
        log = next(folder.glob("training_log*")).read_text()
        assert f"{TEACHER}__CascadeTeacher__{configuration}" in log
        checkpoint = load_checkpoint_file(folder / "checkpoint_final.pth")
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        assert np.isfinite(checkpoint["logging"]["kd_soft_dice"]).all()


def test_stock_nnunet_predicts_one_stage_after_the_other(workspace, cascade, tmp_path):
    common = ["-i", workspace.raw / "imagesTs", "-d", "4", "-tr", STUDENT, "-p", "CascadeStudent", "-device", "cpu"]
    first, second = tmp_path / "first", tmp_path / "second"
    workspace.run("nnUNetv2_predict", *common, "-o", first, "-c", LOWRES, "-f", "all")
    workspace.run("nnUNetv2_predict", *common, "-o", second, "-c", CASCADE, "-f", "0", "-prev_stage_predictions", first)
    files = sorted(second.glob("*.nii.gz"))
    assert len(files) == TEST
    for file in files:
        assert read_segmentation(file).any()
        assert set(np.unique(read_segmentation(file))) <= {0, 1, 2}
