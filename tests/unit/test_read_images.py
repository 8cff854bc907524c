"""Images and labels on their way in: what nnU-Net's readers misread, or could not preprocess, is refused."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_kd.data.read_images import MAX_VOXELS, ImageError, read_case, read_images, read_labels

SHAPE = (3, 4, 5)


def image_with(value: float, dtype: str = "float32") -> np.ndarray:
    image = np.ones(SHAPE, dtype)
    image[1, 2, 3] = value
    return image


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("reader", "ending", "dtype"),
    [
        (SimpleITKIO, ".nii.gz", "float32"),
        (SimpleITKIO, ".nii.gz", "float64"),
        (SimpleITKIO, ".mha", "float32"),
        (NibabelIO, ".nii", "float32"),
    ],
)
def test_values_that_are_not_finite_are_refused_in_images_and_labels(tmp_path, reader, ending, dtype, value):
    file = tmp_path / f"case_0000{ending}"
    if ending == ".mha":
        sitk.WriteImage(sitk.GetImageFromArray(image_with(value, dtype)), str(file))
    else:
        nib.save(nib.Nifti1Image(image_with(value, dtype), np.eye(4)), file)
    for read in (lambda: read_images(reader(), [file]), lambda: read_labels(reader(), file)):
        with pytest.raises(ImageError, match=r"^1 voxels are NaN or infinite$"):
            read()


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.ones(SHAPE, np.complex64), "holds colours or complex values"),
        (np.ones(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "holds colours or complex values"),
        (np.ones((3, 4, 0), np.float32), "has no voxels"),
        (np.ones((3, 4, 5, 2, 2), np.float32), "cannot be read|too many axes"),
    ],
    ids=["complex", "colours", "empty", "5D"],
)
def test_files_that_hold_no_image_are_refused(tmp_path, image, reason):
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "case_0000.nii.gz")
    with pytest.raises(ImageError, match=reason):
        read_images(SimpleITKIO(), [tmp_path / "case_0000.nii.gz"])


def test_files_that_are_none_or_do_not_fit_are_refused(tmp_path):
    files = [tmp_path / f"case_000{i}.nii.gz" for i in range(3)]
    files[0].write_bytes(b"")
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), np.eye(4)), files[1])
    nib.save(nib.Nifti1Image(np.ones((3, 4, 6), np.float32), np.eye(4)), files[2])
    for wrong in ([files[0]], [tmp_path / "absent.nii.gz"], [tmp_path / "absent.mha"]):
        with pytest.raises(ImageError, match="cannot be read"):
            read_images(SimpleITKIO(), wrong)
    with pytest.raises(ImageError, match="its channels differ in shape or spacing"):
        read_images(SimpleITKIO(), files[1:])


@pytest.mark.parametrize("spacing", [[0, 1, 1], [1, -2, 1], [1, float("nan"), 1], ["one", 1, 1]])
def test_a_spacing_is_of_positive_numbers(tmp_path, spacing):
    tifffile.imwrite(tmp_path / "case_0000.tif", np.ones(SHAPE, np.uint8), photometric="minisblack")
    (tmp_path / "case.json").write_text(json.dumps({"spacing": spacing}))
    with pytest.raises(ImageError, match=r"spacing|could not convert"):
        read_images(Tiff3DIO(), [tmp_path / "case_0000.tif"])


def plans(spacing: list[float], channels: int = 1, order: tuple[int, ...] = (0, 1, 2)) -> list:
    configuration = SimpleNamespace(spacing=spacing, normalization_schemes=["ZScoreNormalization"] * channels)
    return [SimpleNamespace(image_reader_writer_class=SimpleITKIO, transpose_forward=list(order)), configuration]


def test_an_image_that_resampling_would_leave_nothing_or_too_much_of_is_refused(tmp_path):
    file = tmp_path / "case_0000.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), np.diag([1.0, 1.0, 4.0, 1.0])), file)  # z, y, x: 5, 4, 3
    image, properties = read_case(*plans([2.0, 1.0, 1.0]), [file])
    assert image.shape == (1, 5, 4, 3)
    assert properties["spacing"] == [4.0, 1.0, 1.0]
    read_case(*plans([1.0, 1.0, 40.0], order=(1, 2, 0)), [file])
    read_case(*plans([1.0, 1.0]), [file])
    for too_small in ([1.0, 1.0, 40.0], [1.0, 40.0]):
        with pytest.raises(ImageError, match=r"has 5 x 4 x 3 voxels of 4 x 1 x 1 mm, which become (5|20) x 4 x 0 of"):
            read_case(*plans(too_small), [file])
    tiny = float((60 / MAX_VOXELS) ** (1 / 3))
    with pytest.raises(ImageError, match="its spacing cannot be right"):
        read_case(*plans([tiny] * 3), [file])
    with pytest.raises(ImageError, match="holds 1 channels, expected 2"):
        read_case(*plans([1.0] * 3, channels=2), [file])


def test_a_file_that_ends_early_is_refused_although_simpleitk_reads_it(tmp_path):
    file = tmp_path / "case_0000.nii.gz"
    image = np.random.default_rng(0).normal(size=(20, 30, 40)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.eye(4)), file)
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ImageError, match=r"^cannot be read"):
        read_images(SimpleITKIO(), [file])
