"""The demo's synthetic data: repeatable, with the geometry and the difficulties it promises."""

import json

import numpy as np
import pytest
from SimpleITK import GetArrayFromImage, ReadImage

from nnunet_kd.demo.synthetic import MEANS, ORGANS, SHAPE, SPACING_MM, make_case, write_dataset


@pytest.fixture(scope="module")
def cases():
    return [make_case(np.random.default_rng(seed)) for seed in range(5)]


def neighbours(label, a, b):
    """Pairs of face neighbours with the labels ``a`` and ``b``."""
    pairs = 0
    for axis in range(label.ndim):
        first, second = label.swapaxes(0, axis)[:-1], label.swapaxes(0, axis)[1:]
        pairs += np.sum(((first == a) & (second == b)) | ((first == b) & (second == a)))
    return pairs


def test_same_seed_same_case_other_seed_other_case(cases):
    again = make_case(np.random.default_rng(0))
    assert np.array_equal(again[0], cases[0][0])
    assert np.array_equal(again[1], cases[0][1])
    assert not np.array_equal(cases[1][1], cases[0][1])


def test_shapes_types_and_labels(cases):
    for image, label, spacing_mm in cases:
        assert image.shape == label.shape == SHAPE
        assert (image.dtype, label.dtype) == (np.float32, np.uint8)
        assert spacing_mm == SPACING_MM
        assert np.isfinite(image).all()
        assert set(np.unique(label)) == {0, *ORGANS.values()}


def test_labels_of_the_organs_are_consecutive():
    assert sorted(ORGANS.values()) == list(range(1, len(ORGANS) + 1))


def test_every_organ_touches_another_organ(cases):
    for _, label, _ in cases:
        assert neighbours(label, 1, 2) > 0
        assert neighbours(label, 1, 3) + neighbours(label, 2, 3) > 0


def test_partial_volume_puts_border_voxels_between_the_tissues():
    """Without noise, the outermost voxels of an organ are darker than its inside and lighter than the background."""
    image, label, _ = make_case(np.random.default_rng(0), noise=0)
    organ = label == ORGANS["large_organ"]
    inside = organ & np.all([np.roll(organ, shift, axis) for axis in range(3) for shift in (-1, 1)], axis=0)
    beside_background = organ & np.any(
        [np.roll(label == 0, shift, axis) for axis in range(3) for shift in (-1, 1)], axis=0
    )
    background = np.median(image[label == 0])
    assert background < np.mean(image[beside_background]) < np.mean(image[inside])


def test_organs_differ_less_in_intensity_than_the_noise_alone_would_separate(cases):
    image, label, _ = cases[0]
    spread = np.std(image[label == 1])
    assert 0.2 < spread / (MEANS[2] - MEANS[1]) < 1.5


def test_data_set_on_disk(tmp_path):
    folder = write_dataset(tmp_path, num_training=2, num_unlabeled=1, num_test=1, seed=3)
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["numTraining"] == 2
    assert dataset["labels"] == {"background": 0, **ORGANS}
    counts = {p.name: len(list(p.iterdir())) for p in folder.iterdir() if p.is_dir()}
    assert counts == {"imagesTr": 2, "labelsTr": 2, "imagesUn": 1, "imagesTs": 1, "labelsTs": 1}


def test_image_and_label_share_an_anisotropic_oblique_geometry(tmp_path):
    folder = write_dataset(tmp_path, num_training=2, num_unlabeled=0, num_test=0)
    for file in (folder / "labelsTr").iterdir():
        label = ReadImage(str(file))
        image = ReadImage(str(folder / "imagesTr" / file.name.replace(".nii.gz", "_0000.nii.gz")))
        assert image.GetSize() == label.GetSize() == SHAPE[::-1]
        for name in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(image, name)() == getattr(label, name)()
        assert image.GetSpacing()[2] > 1.5 * image.GetSpacing()[0]
        direction = np.array(image.GetDirection()).reshape(3, 3)
        assert np.allclose(direction @ direction.T, np.eye(3), atol=1e-5)
        assert not np.allclose(np.abs(direction), np.eye(3), atol=1e-3)


def test_data_set_is_repeatable(tmp_path):
    first, second = (write_dataset(tmp_path / n, num_training=1, num_unlabeled=0, num_test=1, seed=7) for n in "ab")
    for file in (p.relative_to(first) for p in first.rglob("*.nii.gz")):
        a, b = (GetArrayFromImage(ReadImage(str(f / file))) for f in (first, second))
        assert np.array_equal(a, b)
