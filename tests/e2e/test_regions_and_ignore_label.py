"""Region-based labels with an ignore label: teacher, soft labels and student, by nnU-Net's own commands."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.softlabels.stores import store_folder
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.teachers.student_data import load_student
from tests.e2e.conftest import SHORT, SMALL, Workspace, real_data

LABELS = {"background": 0, "hippocampus": [1, 2], "posterior": 2, "ignore": 3}


@pytest.fixture(scope="module")
def regions(tmp_path_factory) -> Workspace:
    """Four cases whose lowest slices are not annotated, and a short-trained teacher."""
    space = Workspace(tmp_path_factory.mktemp("regions"))
    source = real_data() / "hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (space.raw / folder).mkdir(parents=True)
    for file in sorted((source / "labels").glob("*.nii.gz"))[:4]:
        case = file.name.removesuffix(".nii.gz")
        label = sitk.ReadImage(str(file))
        voxels = sitk.GetArrayFromImage(label)
        voxels[:4] = 3
        changed = sitk.GetImageFromArray(voxels)
        changed.CopyInformation(label)
        sitk.WriteImage(changed, str(space.raw / "labelsTr" / file.name))
        (space.raw / "imagesTr" / f"{case}_0000.nii.gz").symlink_to(source / "images" / f"{case}_0000.nii.gz")
    description = {
        "channel_names": {"0": "MRI"}, "labels": LABELS, "regions_class_order": [1, 2], "numTraining": 4,
        "file_ending": ".nii.gz",
    }  # fmt: skip
    (space.raw / "dataset.json").write_text(json.dumps(description))
    space.run("nnUNetv2_plan_and_preprocess", "-d", "4", "-c", "3d_fullres", "-np", "2", nnUNet_n_proc_DA="1")
    space.run(
        "nnUNetv2_kd", "plan", "-d", "4", "-c", "3d_fullres", "--role", "teacher", "--student", SMALL, "-o", "T",
        "--batch_size", "2", "--set", *SHORT, "schedule.iterations_per_epoch=10",
    )  # fmt: skip
    space.train("T", "all", "nnUNetTrainerKDTeacher")
    return space


def test_a_student_of_regions_learns_from_independent_soft_labels(regions):
    space = regions
    space.run(
        "nnUNetv2_kd", "plan", "-d", "4", "-c", "3d_fullres", "--student", SMALL, "-o", "S", "--batch_size", "2",
        "--teachers", "nnUNetTrainerKDTeacher__T__3d_fullres:all", "--set", *SHORT, "schedule.iterations_per_epoch=4",
        "distillation.kl.weight=1", "distillation.mse.weight=1", "distillation.soft_ce.weight=1",
        "distillation.soft_dice.weight=1",
    )  # fmt: skip
    space.train("S", "all", "nnUNetTrainerKDEnsemble")
    kd, student = load_student(space.preprocessed / "S.json", "3d_fullres", space.raw)
    store = SoftLabelStore.open(store_folder(TeachingEnsemble.resolve(kd, student, space.results, "all")))
    assert store.regions
    assert store.read(store.cases()[0]).shape[0] == 2
    log = load_checkpoint_file(
        space.results / "nnUNetTrainerKDEnsemble__S__3d_fullres" / "fold_all" / "checkpoint_final.pth"
    )["logging"]
    for term in ("kl", "mse", "soft_ce", "soft_dice"):
        assert np.isfinite(log[f"kd_{term}"]).all()
        assert min(log[f"kd_{term}"]) > 0


@pytest.mark.parametrize("trainer", ["nnUNetTrainerKDFeature", "nnUNetTrainerKDMultiTeacher"])
def test_a_student_of_regions_learns_from_teachers_in_memory(regions, trainer):
    space, name = regions, f"M{trainer[-4:]}"
    space.run(
        "nnUNetv2_kd", "plan", "-d", "4", "-c", "3d_fullres", "--student", SMALL, "-o", name,
        "--batch_size", "2", "--teachers", "nnUNetTrainerKDTeacher__T__3d_fullres:all", "--set", *SHORT,
        "schedule.iterations_per_epoch=2", "schedule.num_epochs=1", "features.intra_class.weight=1",
        "hard_loss.name=dice_lovasz", "multi_teacher.weights=inverse",
    )  # fmt: skip
    space.train(name, "all", trainer)
    log = load_checkpoint_file(space.results / f"{trainer}__{name}__3d_fullres" / "fold_all" / "checkpoint_final.pth")[
        "logging"
    ]
    for term in ("soft_ce", "soft_dice", "importance", "region_affinity", "intra_class"):
        assert np.isfinite(log[f"kd_{term}"]).all()
        assert min(log[f"kd_{term}"]) > 0
