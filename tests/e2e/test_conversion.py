"""Converted data sets go through nnU-Net's verification, planning, preprocessing and a short training."""

import json

import pytest

from tests import replicas
from tests.e2e.conftest import Workspace

TRAINING = (
    *("schedule.num_epochs=1", "schedule.iterations_per_epoch=2", "schedule.val_iterations_per_epoch=1"),
    *("optimizer.name=adam", "optimizer.initial_lr=0.001"),
)


def convert_and_train(space: Workspace, command: list, dataset_id: str, fold: str) -> str:
    """All commands, from the raw folder to a trained fold; returns what nnU-Net printed."""
    printed = space.run("nnUNetv2_kd", "convert", *command, "--allow_missing", "-np", "1")
    printed += space.run(
        *("nnUNetv2_plan_and_preprocess", "-d", dataset_id, "-c", "3d_fullres", "--verify_dataset_integrity"),
        *("-npfp", "1", "-np", "1"),
        nnUNet_n_proc_DA="1",  # nnU-Net 2.8.1 cannot plan with 0
    )
    space.run(
        *("nnUNetv2_kd", "plan", "-d", dataset_id, "-c", "3d_fullres", "--role", "teacher", "--student", "width=0.125"),
        *("--batch_size", "2", "-o", "Short", "--set", *TRAINING),
    )
    options = ("-tr", "nnUNetTrainerKDTeacher", "-p", "Short", "-device", "cpu")
    return printed + space.run("nnUNetv2_train", dataset_id, "3d_fullres", fold, *options)


def spacings(space: Workspace, dataset: str) -> set[tuple[float, ...]]:
    """Spacings (z, y, x) that nnU-Net found, in mm."""
    fingerprint = json.loads((space.root / "preprocessed" / dataset / "dataset_fingerprint.json").read_text())
    return {tuple(round(s, 4) for s in spacing) for spacing in fingerprint["spacings"]}


@pytest.fixture
def space(tmp_path):
    return Workspace(tmp_path)


def test_acdc_from_the_download_to_noothouts_fold(space):
    """The spacing is the qform's; nnU-Net copies the folds and trains the last one, 10 patients for validation."""
    raw = replicas.acdc(space.root / "ACDC", train=range(1, 13), test=(101,), shape=(36, 32, 8))
    printed = convert_and_train(space, ["ACDC", "-i", raw, "--frames", "ED"], "27", "5")
    assert "verify_dataset_integrity Done." in printed
    assert "WARNING" not in printed.split("verify_dataset_integrity Done.")[0]
    assert "Using splits from existing split file" in printed
    assert "This split has 2 training and 10 validation cases." in printed
    assert spacings(space, "Dataset027_ACDC") == {(8.0, 1.5, 1.5)}
    folder = space.root / "results" / "Dataset027_ACDC" / "nnUNetTrainerKDTeacher__Short__3d_fullres" / "fold_5"
    summary = json.loads((folder / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 10


def test_lits_from_the_download_with_links(space):
    """Uncompressed NIfTI, reoriented by nnU-Net; volumes 28 and 29 have their voxel size back."""
    raw = replicas.lits(space.root / "LiTS", train=(0, 1, 2, 28, 29), test=(0,), shape=(32, 36, 20))
    printed = convert_and_train(space, ["LiTS", "-i", raw, "--link", "symbolic"], "29", "0")
    assert "verify_dataset_integrity Done." in printed
    assert "This split has 4 training and 1 validation cases." in printed
    assert spacings(space, "Dataset029_LiTS") == {(2.0, 0.7, 0.7)}
    plans = json.loads((space.root / "preprocessed" / "Dataset029_LiTS" / "nnUNetPlans.json").read_text())
    assert plans["image_reader_writer"] == "NibabelIOWithReorient"
    assert (space.root / "raw" / "Dataset029_LiTS" / "imagesTr" / "LiTS_000_0000.nii").is_symlink()
    folder = space.root / "results" / "Dataset029_LiTS" / "nnUNetTrainerKDTeacher__Short__3d_fullres" / "fold_0"
    assert (folder / "checkpoint_final.pth").is_file()
