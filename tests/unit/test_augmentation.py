"""Augmentation is nnU-Net's, mirrored and turned as far as the settings let it."""

from pathlib import Path

import numpy as np
import pytest
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

from tests.unit.test_online_trainers import trainer_of
from tests.unit.toy_dataset import make_toy


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    return make_toy(tmp_path, monkeypatch)


def test_da5_is_nnunets_own_augmentation(toy):
    toy.write_plans({"augmentation": {"transforms": "DA5"}}, "Strong")
    trainer = trainer_of("Strong", "nnUNetTrainerKDTeacher")
    trainer.initialize()
    trainer.on_train_start()
    transforms = trainer.dataloader_train.data_loader.transforms.transforms
    assert "Rot90Transform" in repr(transforms)
    assert trainer.inference_allowed_mirroring_axes == (0, 1, 2)


@pytest.mark.parametrize(
    ("role", "at_prediction", "setting", "patches", "prediction"),
    [
        ("teacher", False, None, True, True),
        ("teacher", False, True, True, True),
        ("teacher", False, False, False, False),
        ("student", False, None, False, False),
        ("student", False, True, True, False),
        ("student", False, False, False, False),
        ("student", True, None, True, True),
        ("student", True, True, True, True),
    ],
)
@pytest.mark.parametrize("transforms", ["default", "DA5"])
def test_patches_are_mirrored_where_prediction_mirrors_unless_the_setting_says_otherwise(
    toy, transforms, role, at_prediction, setting, patches, prediction
):
    block = {
        "role": role,
        "augmentation": {"transforms": transforms, "mirroring": setting},
        "student": {"mirroring": at_prediction},
    }
    toy.write_plans(block, "Mirrors")
    trainer = trainer_of("Mirrors", "nnUNetTrainerKDTeacher")
    trainer.initialize()
    trainer.on_train_start()
    used = trainer.dataloader_train.data_loader.transforms.transforms
    assert any(isinstance(t, MirrorTransform) for t in used) == patches
    assert ("Patches are not mirrored" in Path(trainer.log_file).read_text()) != patches
    assert trainer.inference_allowed_mirroring_axes == ((0, 1, 2) if prediction else None)


@pytest.mark.parametrize("transforms", ["default", "DA5"])
@pytest.mark.parametrize(("largest", "expected"), [(180, 30), (12, 12), (0, 0)])
def test_patches_are_turned_as_far_as_the_setting_and_nnunet_allow(toy, transforms, largest, expected):
    toy.write_plans({"augmentation": {"transforms": transforms, "rotation": largest}}, "Turns")
    trainer = trainer_of("Turns", "nnUNetTrainerKDTeacher")
    trainer.initialize()
    trainer.on_train_start()
    used = trainer.dataloader_train.data_loader.transforms.transforms
    spatial = next(t for t in used if isinstance(t, SpatialTransform))
    assert np.rad2deg(spatial.rotation) == pytest.approx((-expected, expected))
