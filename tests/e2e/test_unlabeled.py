"""Unlabeled images, networks trained together, and coarse-to-fine prediction, with nnU-Net's own commands."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_kd.teachers.model import load_checkpoint_file
from tests.e2e.conftest import SMALL, TEST, TRAIN, read_segmentation, real_data

UNLABELED = 3
CROSS = "nnUNetTrainerKDCrossTeaching"


@pytest.fixture(scope="module")
def unlabeled(workspace, tmp_path_factory):
    """More images of the same kind, without labels, preprocessed in two processes; gone when the module is done."""
    source = real_data() / "hippocampus" / "images"
    folder = tmp_path_factory.mktemp("images")
    for file in sorted(source.glob("*.nii.gz"))[TRAIN + TEST : TRAIN + TEST + UNLABELED]:
        shutil.copy(file, folder)
    printed = workspace.run("nnUNetv2_kd", "preprocess-unlabeled", "-d", "4", "-i", folder, "-np", "2")
    assert f"{UNLABELED} cases preprocessed" in printed
    yield sorted(f.name.removesuffix("_0000.nii.gz") for f in folder.iterdir())
    shutil.rmtree(workspace.preprocessed / "kd_unlabeled")


@pytest.fixture(scope="module")
def semi(workspace, teachers, unlabeled) -> str:
    """What the training of a student prints, half of whose batches are unlabeled."""
    workspace.plan(
        "Semi", "-c", "3d_fullres", "--student", SMALL, "--teachers", teachers["3d_fullres"] + ":0",
        "--batch_size", "2", "schedule.iterations_per_epoch=4", "schedule.seed=3", "ensemble.name=semi",
        "ensemble.mirroring=false", "ensemble.membership=out_of_fold", "unlabeled.fraction=0.5",
        "unlabeled.voxel_weight=entropy", "distillation.kl.weight=1", "distillation.kl.ramp=gaussian",
    )  # fmt: skip
    # fold 0 trained on six of the eight labeled cases, so out_of_fold can teach the unlabeled ones and two of them only
    printed = workspace.run("nnUNetv2_kd", "softlabels", "-d", "4", "-p", "Semi", "-device", "cpu", code=2)
    assert "every teacher was trained on it" in printed
    plans = workspace.preprocessed / "Semi.json"
    plans.write_text(plans.read_text().replace("out_of_fold", "all"))
    printed = workspace.run("nnUNetv2_kd", "softlabels", "-d", "4", "-p", "Semi", "-device", "cpu")
    assert f"{TRAIN} labeled and {UNLABELED} unlabeled cases" in printed
    return workspace.train("Semi", "0", "nnUNetTrainerKDEnsemble")


def test_a_student_learns_from_unlabeled_cases_too(workspace, semi):
    assert f"1 of 2 cases of a batch are unlabeled, drawn from {UNLABELED}" in semi
    log = load_checkpoint_file(
        workspace.results / "nnUNetTrainerKDEnsemble__Semi__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    )["logging"]
    assert np.isfinite(log["kd_hard"]).all()
    assert log["kd_kl"][1] > log["kd_kl"][0], "the ramp"


def test_a_student_teaches_the_next_one(workspace, semi):
    workspace.plan(
        "Again", "-c", "3d_fullres", "--student", SMALL, "--teachers", "nnUNetTrainerKDEnsemble__Semi__3d_fullres:0",
        "--batch_size", "2", "schedule.iterations_per_epoch=2", "schedule.seed=4", "unlabeled.fraction=0.5",
    )  # fmt: skip
    printed = workspace.run("nnUNetv2_kd", "softlabels", "-d", "4", "-p", "Again", "-device", "cpu")
    assert f"{TRAIN} labeled and {UNLABELED} unlabeled cases" in printed
    printed = workspace.train("Again", "0", "nnUNetTrainerKDEnsemble")
    (start,) = re.findall(r"Inheriting from nnUNetTrainerKDEnsemble__Semi__3d_fullres fold 0 .*", printed)
    assert start.endswith("Same architecture: the student is a copy.")
    assert f"1 of 2 cases of a batch are unlabeled, drawn from {UNLABELED}" in printed


def test_teachers_and_student_trained_together(workspace, unlabeled, tmp_path):
    workspace.plan(
        "Wide", "-c", "3d_fullres", "--role", "teacher", "--student", "width=0.5", "--batch_size", "2",
    )  # fmt: skip
    workspace.plan(
        "Together", "-c", "3d_fullres", "--recipe", "choi2022", "--student", SMALL, "--batch_size", "2",
        "schedule.iterations_per_epoch=3", "schedule.seed=1", 'cross_teaching.teachers=["Wide", "same"]',
    )  # fmt: skip
    printed = workspace.train("Together", "0", CROSS)
    assert f"A step takes 2 labeled and 2 unlabeled cases, drawn from 6 and {UNLABELED}" in printed
    assert "Mean Validation Dice" in printed
    folder = workspace.results / f"{CROSS}__Together__3d_fullres" / "fold_0"
    checkpoint = load_checkpoint_file(folder / "checkpoint_final.pth")
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert "kd_cross_teaching" not in checkpoint
    for curve in ("kd_hard_teacher1", "kd_cross_teaching", "kd_pseudo_supervision", "kd_dice_teacher2"):
        assert len(checkpoint["logging"][curve]) == 2, curve
    assert (folder / "progress.png").stat().st_size > 10_000
    for name in ("Together", "Together_teacher1"):
        workspace.run(
            "nnUNetv2_predict", "-i", workspace.raw / "imagesTs", "-o", tmp_path / name, "-d", "4", "-c", "3d_fullres",
            "-f", "0", "-tr", CROSS, "-p", name, "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta",
        )  # fmt: skip
        assert len(list((tmp_path / name).glob("*.nii.gz"))) == TEST


@pytest.fixture(scope="module")
def wide_images(workspace, tmp_path_factory) -> tuple[Path, Path]:
    """Real test images and references, embedded in a field of view of eight times the volume."""
    root = tmp_path_factory.mktemp("wide")
    images, labels = root / "images", root / "labels"
    rng = np.random.default_rng(0)
    for file in sorted((workspace.raw / "imagesTs").glob("*.nii.gz")):
        case = file.name.removesuffix("_0000.nii.gz")
        for source, folder in ((file, images), (workspace.raw / "labelsTs" / f"{case}.nii.gz", labels)):
            image = sitk.ReadImage(str(source))
            array = sitk.GetArrayFromImage(image)
            pad = [(s // 4, s - s // 4) for s in array.shape]
            if folder is images:
                border = array[[0, -1]].astype(np.float32)
                noise = rng.normal(border.mean(), border.std() / 4, [s * 2 for s in array.shape])
                wide = noise.clip(array.min(), array.max()).astype(np.float32)
            else:
                wide = np.zeros([s * 2 for s in array.shape], array.dtype)
            wide[tuple(slice(a, a + s) for (a, _), s in zip(pad, array.shape, strict=True))] = array
            folder.mkdir(exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(wide), str(folder / source.name))
    return images, labels


def dice(prediction, reference):
    """Dice of the whole foreground; teachers of a minute still confuse its two classes."""
    p, r = read_segmentation(prediction) > 0, read_segmentation(reference) > 0
    return float(2 * (p & r).sum() / (p.sum() + r.sum()))


def test_coarse_to_fine_finds_real_anatomy_in_a_large_field_of_view(workspace, teachers, wide_images, tmp_path):
    images, labels = wide_images
    fine = workspace.results / teachers["3d_fullres"]
    coarse = workspace.results / teachers["3d_lowres"]
    stages = ["--coarse", f"{coarse}:0", "--fine", f"{fine}:0", "-device", "cpu"]
    predict = ["nnUNetv2_kd", "predict", "-i", images]
    printed = workspace.run(*predict, "-o", tmp_path / "box", *stages, "--keep-largest", "--margin-mm", "3")
    assert f"{TEST} cases predicted" in printed
    workspace.run(*predict, "-o", tmp_path / "whole", *stages, "--margin", "100")
    workspace.run(
        "nnUNetv2_predict", "-i", images, "-o", tmp_path / "stock", "-d", "4", "-c", "3d_fullres", "-f", "0",
        "-tr", "nnUNetTrainerKDTeacher", "-p", "Teacher_3d_fullres", "-device", "cpu", "-npp", "0", "-nps", "0",
    )  # fmt: skip
    record = json.loads((tmp_path / "box" / "coarse_to_fine.json").read_text())["cases"]
    for file in sorted((tmp_path / "stock").glob("*.nii.gz")):
        np.testing.assert_array_equal(read_segmentation(tmp_path / "whole" / file.name), read_segmentation(file))
        case = record[file.name.removesuffix(".nii.gz")]
        assert case["found"]
        assert case["share_of_image"] < 0.7
        scores = [dice(tmp_path / kind / file.name, labels / file.name) for kind in ("box", "stock")]
        assert scores[0] > scores[1] - 0.02, "the box lost what the full sliding window finds"
        print(f"Dice in the box {scores[0]:.3f}, in the whole image {scores[1]:.3f}")
        assert scores[0] > 0.2, "nothing was found, the test would prove nothing"
