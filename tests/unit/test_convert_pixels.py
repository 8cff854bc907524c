"""``nnUNetv2_kd convert folders`` with TIFF, and with images that have an alpha channel."""

import json

import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage import io

from tests.unit.test_convert_folders import convert, description, pngs, refused, written

LABEL = np.zeros((12, 16), np.uint8)
LABEL[3:6, 4:9] = 1
SPACING_MM = [3.0, 0.5, 0.25]


def tiffs(folder, images, label=LABEL, ending=".tif", spacing=None, **how):
    """Folders of TIFF images and labels; ``spacing`` goes into a file beside each of them."""
    for part, arrays in (("images", images), ("labels", dict.fromkeys(images, label))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for case, array in arrays.items():
            photometric = how.get("photometric", "minisblack") if part == "images" else "minisblack"
            tifffile.imwrite(folder / part / f"{case}{ending}", array, photometric=photometric)
            if spacing:
                (folder / part / f"{case}.json").write_text(json.dumps({"spacing": spacing}))
    return folder


def reader(nnunet_raw):
    return determine_reader_writer_from_dataset_json(description(nnunet_raw), verbose=False)


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".TIF"])
def test_2d_tiff_stays_as_it_is_and_nnunet_reads_it(ending, tmp_path, nnunet_raw):
    image = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    folder = tiffs(tmp_path / "nuclei", {"a": image, "b": image + 1}, ending=ending)
    convert(folder, names="nucleus")
    assert written(nnunet_raw, "imagesTr") == ["a_0000.tif", "b_0000.tif"]
    assert written(nnunet_raw, "labelsTr") == ["a.tif", "b.tif"]
    new = nnunet_raw / "Dataset300_nuclei"
    assert (new / "imagesTr/a_0000.tif").read_bytes() == (folder / f"images/a{ending}").read_bytes()
    assert description(nnunet_raw)["file_ending"] == ".tif"
    assert reader(nnunet_raw) is NaturalImage2DIO
    assert np.array_equal(NaturalImage2DIO().read_images([str(new / "imagesTr/a_0000.tif")])[0][0, 0], image)
    assert np.array_equal(NaturalImage2DIO().read_seg(str(new / "labelsTr/a.tif"))[0][0, 0], LABEL)


@pytest.mark.parametrize("slices", [4, 7])
def test_a_stack_keeps_its_spacing_file(slices, tmp_path, nnunet_raw):
    """Also one of four slices, which nnU-Net's reader of 2D images would take for colours."""
    image = np.random.default_rng(0).integers(0, 900, (slices, 12, 16), np.uint16)
    label = 255 * np.stack([LABEL] * slices)
    folder = tiffs(tmp_path / "embryo", {"a": image, "b": image}, label, spacing=SPACING_MM)
    convert(folder, names="255=cell")
    assert written(nnunet_raw, "imagesTr") == ["a.json", "a_0000.tif", "b.json", "b_0000.tif"]
    assert reader(nnunet_raw) is Tiff3DIO
    new = nnunet_raw / "Dataset300_embryo"
    values, properties = Tiff3DIO().read_images([str(new / "imagesTr/a_0000.tif")])
    assert np.array_equal(values[0], image)
    assert properties["spacing"] == SPACING_MM
    values, properties = Tiff3DIO().read_seg(str(new / "labelsTr/a.tif"))
    assert np.array_equal(values[0], label == 255)
    assert properties["spacing"] == SPACING_MM


def test_a_label_without_a_spacing_file_takes_the_images_when_told_to(tmp_path, nnunet_raw, capsys):
    image = np.ones((5, 12, 16), np.uint8)
    folder = tiffs(tmp_path / "embryo", {"a": image, "b": image}, np.stack([LABEL] * 5), spacing=SPACING_MM)
    for case in "ab":
        (folder / "labels" / f"{case}.json").unlink()
    printed = refused(capsys, folder, names="cell")
    assert "differs from its image in spacing (1, 1, 1) against (0.25, 0.5, 3) mm" in printed
    convert(folder, "--label_geometry", "image", names="cell")
    spacing = json.loads((nnunet_raw / "Dataset300_embryo/labelsTr/a.json").read_text())["spacing"]
    assert spacing == SPACING_MM


@pytest.mark.parametrize("text", ["{}", "[1]", '{"spacing": [1, 2]}', '{"spacing": [1, 0, 1]}', "no JSON"])
def test_a_spacing_file_that_says_nothing(text, tmp_path, nnunet_raw, capsys):
    image = np.ones((5, 12, 16), np.uint8)
    folder = tiffs(tmp_path / "embryo", {"a": image, "b": image}, np.stack([LABEL] * 5), spacing=SPACING_MM)
    (folder / "images" / "b.json").write_text(text)
    assert "b.tif: its spacing file b.json" in refused(capsys, folder, names="cell")


def test_png_masks_of_tiff_images_become_tiff(tmp_path, nnunet_raw):
    colours = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    folder = tiffs(tmp_path / "tissue", {"a": colours, "b": colours}, photometric="rgb")
    for case in "ab":
        (folder / "labels" / f"{case}.tif").unlink()
        io.imsave(folder / "labels" / f"{case}.png", LABEL, check_contrast=False)
    convert(folder, names="gland")
    assert list(description(nnunet_raw)["channel_names"].values()) == ["R", "G", "B"]
    new = nnunet_raw / "Dataset300_tissue"
    assert np.array_equal(NaturalImage2DIO().read_seg(str(new / "labelsTr/b.tif"))[0][0, 0], LABEL)
    image = NaturalImage2DIO().read_images([str(new / "imagesTr/b_0000.tif")])[0]
    assert np.array_equal(image[:, 0].transpose(1, 2, 0), colours)


def test_2d_and_3d_tiff_do_not_mix(tmp_path, nnunet_raw, capsys):
    folder = tiffs(tmp_path / "nuclei", {"a": LABEL, "b": np.stack([LABEL] * 5)})
    assert "b.tif: is 3D, expected 2D; convert them as two data sets" in refused(capsys, folder, names="nucleus")
    tifffile.imwrite(folder / "images" / "b.tif", np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack")
    assert "expected 2D, colours or one stack of slices" in refused(capsys, folder, names="nucleus")


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_an_alpha_that_says_nothing_is_left_out(ending, tmp_path, nnunet_raw, capsys):
    folder = pngs(tmp_path / "cells")
    colours = np.random.default_rng(0).integers(0, 255, (12, 16, 4), np.uint8)
    colours[..., 3] = 255
    for case in "ab":
        (folder / "images" / f"{case}.png").unlink()
        io.imsave(folder / "images" / f"{case}{ending}", colours, check_contrast=False)
    convert(folder, names="255=cell")
    assert "alpha channel left out, which is the same in every pixel (2: a" in capsys.readouterr().out
    assert list(description(nnunet_raw)["channel_names"].values()) == ["R", "G", "B"]
    image = io.imread(nnunet_raw / f"Dataset300_cells/imagesTr/b_0000{ending}")
    assert np.array_equal(image, colours[..., :3])
    convert(folder, "--channels", "R,G,B,A", "--overwrite", names="255=cell")
    assert io.imread(nnunet_raw / f"Dataset300_cells/imagesTr/b_0000{ending}").shape == (12, 16, 4)


def test_an_alpha_that_varies_is_a_channel(tmp_path, nnunet_raw, capsys):
    folder = pngs(tmp_path / "cells", colours=4)
    convert(folder, names="255=cell")
    assert list(description(nnunet_raw)["channel_names"].values()) == ["R", "G", "B", "A"]
    opaque = io.imread(folder / "images" / "a.png")
    opaque[..., 3] = 255
    io.imsave(folder / "images" / "a.png", opaque, check_contrast=False)
    printed = refused(capsys, folder, "--overwrite", names="255=cell")
    assert "b.png: the case has 4 channels, expected 3" in printed


def test_a_folder_without_images_says_what_is_there(tmp_path, nnunet_raw, capsys):
    folder = pngs(tmp_path / "cells")
    for file in (folder / "images").iterdir():
        file.rename(file.with_suffix(".JPG"))
    (folder / "images" / "notes.txt").touch()
    printed = refused(capsys, folder, names="255=cell")
    assert "images: no images there (.nii.gz, .nii, .mha, .mhd, .nrrd, .png, .tif, .tiff, or folders" in printed
    assert "found 2 .jpg, 1 .txt." in printed
    assert "there is no image of that name" not in printed
    for file in (folder / "images").glob("*.JPG"):
        file.rename(file.with_suffix(".png"))
    for file in (folder / "labels").iterdir():
        file.unlink()
    printed = refused(capsys, folder, names="255=cell")
    assert "labels: no labels there" in printed
    assert "found no file." in printed
    assert "there is no label" not in printed
