"""Soft labels go through nnU-Net's data loader and whole augmentation exactly as the hard labels do."""

import pickle

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_kd.data.dataset import SoftLabelDataset
from nnunet_kd.data.transforms import with_soft_labels
from nnunet_kd.softlabels.channels import ImageWithSoftLabels
from nnunet_kd.softlabels.encoding import encode
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.preprocessed import load_preprocessed

CLASSES = 4
CONFIGURATIONS = {
    "2d": {"patch": (24, 24), "initial": (32, 32), "dummy_2d": False},
    "3d": {"patch": (16, 20, 20), "initial": (24, 28, 28), "dummy_2d": False},
    "dummy_2d": {"patch": (6, 24, 24), "initial": (6, 32, 32), "dummy_2d": True},
}


def blobs(shape, seed):
    """Smooth label map with CLASSES labels and its image."""
    rng = np.random.default_rng(seed)
    fields = torch.from_numpy(rng.normal(size=(1, CLASSES, *(max(2, s // 6) for s in shape)))).float()
    fields = torch.nn.functional.interpolate(fields, size=shape, mode="trilinear", align_corners=True)[0].numpy()
    segmentation = fields.argmax(0).astype(np.int8)
    return rng.normal(size=(1, *shape)).astype(np.float32) + segmentation[None], segmentation


class Cases:
    """nnU-Net's dataset interface over arrays in memory."""

    def __init__(self, shape, folder):
        self.identifiers, self.source_folder = ["a", "b"], str(folder)
        for case in self.identifiers:
            (folder / f"{case}.pkl").write_bytes(pickle.dumps({}))
        self.cases = {c: blobs(shape, i) for i, c in enumerate(self.identifiers)}

    def load_case(self, identifier):
        image, segmentation = self.cases[identifier]
        locations = {k: np.argwhere(segmentation[None] == k) for k in range(1, CLASSES)}
        return image, segmentation[None], None, {"class_locations": locations}


@pytest.fixture(params=CONFIGURATIONS, name="setting")
def _setting(request, tmp_path):
    settings = CONFIGURATIONS[request.param]
    cases = Cases((6, 40, 40) if request.param != "3d" else (22, 30, 30), tmp_path)
    store = SoftLabelStore.create(
        tmp_path,
        {"format": 1, "identity": {"dtype": "uint8"}, "labels": {"regions": False}, "versions": {}},
    )
    for name in cases.identifiers:
        one_hot = np.eye(CLASSES, dtype=np.float32)[cases.cases[name][1]].transpose(3, 0, 1, 2)
        store.write(name, one_hot, settings["patch"], {})
    return settings, SoftLabelDataset(cases, [store])


def batches(settings, dataset, deep_supervision, number, augmentation=nnUNetTrainer):
    scales = [[1.0] * len(settings["patch"]), [0.5] * len(settings["patch"])] if deep_supervision else None
    transforms = augmentation.get_training_transforms(
        settings["patch"], (-0.5, 0.5), scales, tuple(range(len(settings["patch"]))), settings["dummy_2d"],
        use_mask_for_norm=[False], foreground_labels=[1, 2, 3],
    )  # fmt: skip
    labels = LabelManager({"background": 0, "x": 1, "y": 2, "z": 3}, None)
    loader = nnUNetDataLoader(
        dataset, 2, settings["initial"], settings["patch"], labels, 0.33, transforms=with_soft_labels(transforms, 1)
    )
    for _ in range(number):
        yield next(loader)


@pytest.mark.parametrize(
    ("deep_supervision", "augmentation"), [(False, nnUNetTrainer), (True, nnUNetTrainer), (True, nnUNetTrainerDA5)]
)
def test_one_hot_soft_labels_follow_the_hard_labels_through_the_whole_augmentation(
    setting, deep_supervision, augmentation
):
    settings, dataset = setting
    np.random.seed(0)
    torch.manual_seed(0)
    same = voxels = augmented_values = 0
    for batch in batches(settings, dataset, deep_supervision, 30, augmentation):
        target = batch["target"][0] if deep_supervision else batch["target"]
        foreground, valid = batch["data"][:, 1:-1], batch["data"][:, -1:]
        assert batch["data"].shape[1:] == (1 + CLASSES, *settings["patch"])
        soft = torch.cat((valid - foreground.sum(1, keepdim=True), foreground), 1)
        inside = valid[:, 0] > 0.999
        same += int((soft.argmax(1) == target[:, 0])[inside].sum())
        voxels += int(inside.sum())
        augmented_values += int(((foreground > 0.01) & (foreground < 0.99)).sum())
    assert augmented_values > 0, "no patch was interpolated, the test would prove nothing"
    assert same / voxels > 0.998


def test_voxels_outside_the_image_have_no_soft_label_and_are_marked(setting):
    settings, dataset = setting
    np.random.seed(1)
    outside = 0
    for batch in batches(settings, dataset, False, 10):
        foreground, valid = batch["data"][:, 1:-1], batch["data"][:, -1:]
        outside += int((valid == 0).sum())
        assert float((foreground.sum(1, keepdim=True) - valid).max()) < 1e-4
    if not settings["dummy_2d"]:
        assert outside > 0


@pytest.mark.parametrize("regions", [False, True])
def test_a_lazy_patch_is_image_soft_labels_and_ones(regions):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 6, 7, 8)).astype(np.float32)
    p = np.moveaxis(rng.dirichlet(np.ones(3), (6, 7, 8)), -1, 0)
    stored = encode(p, regions, "uint8")
    lazy = ImageWithSoftLabels(image, [stored])
    window = (slice(None), slice(1, 4), slice(2, 7), slice(0, 8))
    patch = lazy[window]
    assert lazy.shape == (2 + stored.shape[0] + 1, 6, 7, 8)
    assert patch.dtype == lazy.dtype == np.float32
    np.testing.assert_array_equal(patch[:2], image[window])
    np.testing.assert_allclose(patch[2:-1], stored[window] / 255, rtol=1e-6)
    assert (patch[-1] == 1).all()


def test_the_segmentation_of_a_previous_stage_has_no_channels(tmp_path):
    cases = Cases((6, 8, 10), tmp_path)
    load = cases.load_case
    for shape, fits in (((6, 8, 10), True), ((6, 8, 9), False)):
        cases.load_case = lambda case, shape=shape: (*load(case)[:2], np.zeros(shape, np.int8), load(case)[3])
        if fits:
            assert load_preprocessed(cases, "a")[2].shape == shape
        else:
            with pytest.raises(UserError, match=r"\(6, 8, 9\)"):
                load_preprocessed(cases, "a")
