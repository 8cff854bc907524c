"""``nnUNetv2_kd convert folders``: any images and labels, in every format; and what it refuses."""

import json
import locale

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from skimage import io

from nnunet_kd.cli import main
from nnunet_kd.dataset_conversion.folders import parse_names
from nnunet_kd.utilities.errors import UserError
from tests import replicas

SPACING = (0.5, 0.75, 2.0)


def write_volume(path, array, spacing=SPACING):
    """A volume by SimpleITK; array (z, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing(spacing)
    volume.SetOrigin((1 / 3, -20.25, 1000.5))
    sitk.WriteImage(volume, str(path))


def volumes(folder, ending, cases=("a", "b"), label_ending=None, suffix="", channels=("",)):
    """Folders ``images`` and ``labels`` with those cases."""
    for seed, case in enumerate(cases):
        label = replicas.label_array((1, 2), (4, 5, 6), seed).astype(np.uint8)
        for channel in channels:
            write_volume(folder / "images" / f"{case}{channel}{ending}", replicas.image_array(label, seed))
        write_volume(folder / "labels" / f"{case}{suffix}{label_ending or ending}", label)
    return folder


def pngs(folder, colours=0, value=255):
    """Folders of PNG images and labels."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for case in ("a", "b"):
        label = np.zeros((12, 16), np.uint8)
        label[3:6, 4:9] = value
        image = np.stack([label + i for i in range(colours)], -1) if colours else label
        io.imsave(folder / "images" / f"{case}.png", image, check_contrast=False)
        io.imsave(folder / "labels" / f"{case}.png", label, check_contrast=False)
    return folder


def convert(folder, *options, names="liver,tumor"):
    arguments = ["-i", folder / "images", "-l", folder / "labels", "-d", "300", "--names", names, "-np", "1", *options]
    main(["convert", "folders", *map(str, arguments)])


def refused(capsys, folder, *options, **keywords):
    with pytest.raises(SystemExit) as stop:
        convert(folder, *options, **keywords)
    assert stop.value.code == 2
    return capsys.readouterr().err


def written(nnunet_raw, part):
    (folder,) = nnunet_raw.glob("Dataset300_*")
    return sorted(f.name for f in (folder / part).iterdir())


def description(nnunet_raw):
    (file,) = nnunet_raw.glob("Dataset300_*/dataset.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_formats_that_nnunet_reads_stay(ending, tmp_path, nnunet_raw):
    convert(volumes(tmp_path / "liver", ending))
    assert written(nnunet_raw, "imagesTr") == [f"a_0000{ending}", f"b_0000{ending}"]
    for part, name in (("images", "imagesTr/a_0000"), ("labels", "labelsTr/a")):
        copy = nnunet_raw / "Dataset300_liver" / f"{name}{ending}"
        assert copy.read_bytes() == (tmp_path / "liver" / part / f"a{ending}").read_bytes()
    assert description(nnunet_raw)["channel_names"] == {"0": "image"}


@pytest.mark.parametrize(
    ("image", "label", "new"), [(".mhd", ".mhd", ".mha"), (".nrrd", ".nii.gz", ".nii.gz"), (".mha", ".nii", ".nii.gz")]
)
def test_other_formats_and_mixtures_keep_voxels_and_geometry(image, label, new, tmp_path, nnunet_raw):
    convert(volumes(tmp_path / "liver", image, label_ending=label))
    for part, ending, name in (("images", image, "imagesTr/a_0000"), ("labels", label, "labelsTr/a")):
        before = sitk.ReadImage(str(tmp_path / "liver" / part / f"a{ending}"))
        after = sitk.ReadImage(str(nnunet_raw / "Dataset300_liver" / f"{name}{new}"))
        assert np.array_equal(sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after))
        np.testing.assert_allclose(before.GetSpacing(), after.GetSpacing(), rtol=1e-7)
        np.testing.assert_allclose(before.GetOrigin(), after.GetOrigin(), rtol=1e-6)
        np.testing.assert_allclose(before.GetDirection(), after.GetDirection(), atol=1e-7)


def test_a_label_of_another_format_takes_the_geometry_of_its_image(tmp_path, nnunet_raw):
    folder = volumes(tmp_path / "liver", ".nrrd", label_ending=".nii.gz")
    label = sitk.ReadImage(str(folder / "labels" / "a.nii.gz"))
    moved = sitk.GetImageFromArray(sitk.GetArrayFromImage(label))
    sitk.WriteImage(moved, str(folder / "labels" / "a.nii.gz"))
    convert(folder, "--label_geometry", "image")
    after = sitk.ReadImage(str(nnunet_raw / "Dataset300_liver" / "labelsTr" / "a.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(after), sitk.GetArrayFromImage(label))
    np.testing.assert_allclose(after.GetSpacing(), SPACING, rtol=1e-6)
    np.testing.assert_allclose(after.GetOrigin(), label.GetOrigin(), rtol=1e-6)


def test_channels_suffixes_unlabeled_and_test_cases(tmp_path, nnunet_raw):
    folder = volumes(tmp_path / "brain", ".nii.gz", ("a", "b", "t"), suffix="_seg", channels=("_0000", "_0001"))
    for name in ("unlabeled", "test"):
        (folder / name).mkdir()
    for channel in ("_0000", "_0001"):
        (folder / "images" / f"t{channel}.nii.gz").rename(folder / "test" / f"t{channel}.nii.gz")
        (folder / "unlabeled" / f"u{channel}.nii.gz").write_bytes(
            (folder / "images" / f"a{channel}.nii.gz").read_bytes()
        )
    convert(folder, "-u", folder / "unlabeled", "-t", folder / "test", "--channels", "T1,T2", "--dataset_name", "Brain")
    assert written(nnunet_raw, "imagesTr") == [f"{c}_000{i}.nii.gz" for c in "ab" for i in (0, 1)]
    assert written(nnunet_raw, "labelsTr") == ["a.nii.gz", "b.nii.gz"]
    assert written(nnunet_raw, "imagesUn") == ["u_0000.nii.gz", "u_0001.nii.gz"]
    assert written(nnunet_raw, "labelsTs") == ["t.nii.gz"]
    assert description(nnunet_raw)["channel_names"] == {"0": "T1", "1": "T2"}
    assert description(nnunet_raw)["name"] == "Brain"


def test_label_values_are_named_and_merged(tmp_path, nnunet_raw):
    convert(volumes(tmp_path / "prostate", ".nii.gz"), names="1=prostate, 2=prostate")
    assert description(nnunet_raw)["labels"] == {"background": 0, "prostate": 1}
    label = nib.load(nnunet_raw / "Dataset300_prostate" / "labelsTr" / "a.nii.gz")
    source = nib.load(tmp_path / "prostate" / "labels" / "a.nii.gz")
    assert np.array_equal(np.asanyarray(label.dataobj), np.asanyarray(source.dataobj) > 0)
    assert label.get_data_dtype() == np.uint8


@pytest.mark.parametrize(("colours", "channels"), [(0, ["image"]), (3, ["R", "G", "B"])])
def test_png(colours, channels, tmp_path, nnunet_raw):
    folder = pngs(tmp_path / "vessels", colours)
    convert(folder, names="255=vessel")
    assert list(description(nnunet_raw)["channel_names"].values()) == channels
    assert description(nnunet_raw)["file_ending"] == ".png"
    label = io.imread(nnunet_raw / "Dataset300_vessels" / "labelsTr" / "a.png")
    assert np.array_equal(label, io.imread(folder / "labels" / "a.png") == 255)


def test_dicom_series_are_put_in_their_order(tmp_path, nnunet_raw):
    folder = tmp_path / "ct"
    for seed, case in enumerate(("a", "b")):
        label = replicas.label_array((1, 2), (4, 5, 6), seed).astype(np.uint8)
        image = replicas.image_array(label, seed)
        replicas.dicom_series(folder / "images" / case, image)
        volume = sitk.GetImageFromArray(label)
        volume.SetSpacing((0.75, 0.75, 2.5))
        volume.SetOrigin((-10, -20, 30))
        (folder / "labels").mkdir(exist_ok=True)
        sitk.WriteImage(volume, str(folder / "labels" / f"{case}.nii.gz"))
    encoding = locale.getlocale()
    convert(folder, "--channels", "CT")
    assert locale.getlocale() == encoding, "GDCM changes it"
    after = sitk.ReadImage(str(nnunet_raw / "Dataset300_ct" / "imagesTr" / "b_0000.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(after), image)
    np.testing.assert_allclose(after.GetSpacing(), (0.75, 0.75, 2.5))
    np.testing.assert_allclose(after.GetOrigin(), (-10, -20, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected NAME,NAME"),
        ("liver,,tumor", "expected NAME,NAME"),
        ("x=liver", "expected NAME,NAME"),
        ("1=", "expected NAME,NAME"),
        ("0=liver", "the value 0 is the background"),
        ("3=background", "the value 0 is the background"),
        ("1=liver,1=tumor", "the value 1 has two names"),
        ("99999999999=liver", "found the value 99999999999, expected 4294967295 at most"),
        ("liver,liver", "write 1=liver,2=liver to merge"),
        ("0=background", "name at least one label"),
    ],
)
def test_names_that_make_no_sense(text, message):
    with pytest.raises(UserError, match=message):
        parse_names(text)


def test_names_with_an_explicit_background():
    assert parse_names("0=background,7=liver") == ({"background": 0, "liver": 1}, {0: 0, 7: 1})


def test_folders_that_cannot_be_paired(tmp_path, nnunet_raw, capsys):
    folder = volumes(tmp_path / "liver", ".nii.gz", ("a", "b", "c"))
    (folder / "labels" / "b.nii.gz").unlink()
    (folder / "images" / "c.nii.gz").unlink()
    write_volume(folder / "labels" / "a_seg.nii.gz", np.zeros((4, 5, 6), np.uint8))
    printed = refused(capsys, folder)
    assert "b.nii.gz: there is no label b in" in printed
    assert "images without labels belong to -u" in printed
    assert "c.nii.gz: there is no image of that name" in printed
    assert "a_seg.nii.gz: a.nii.gz is a label of the same case" in printed
    assert list(nnunet_raw.iterdir()) == []


def test_channels_that_are_missing(tmp_path, nnunet_raw, capsys):
    folder = volumes(tmp_path / "brain", ".nii.gz", channels=("_0000", "_0001"))
    (folder / "images" / "b_0001.nii.gz").unlink()
    assert "b: has the channels 0000; 2 are expected, from 0000" in refused(capsys, folder, "--channels", "T1,T2")
    assert "--channels T1,: expected names joined by commas" in refused(capsys, folder, "--channels", "T1,")
    write_volume(folder / "images" / "b_0001.nii.gz", np.zeros((3, 5, 6), np.int16))
    printed = refused(capsys, folder, "--channels", "T1,T2")
    assert "b_0001.nii.gz: differs from b_0000.nii.gz in shape [6, 5, 3] against [6, 5, 4]" in printed


def test_folders_that_are_not_there_or_the_same(tmp_path, nnunet_raw, capsys):
    folder = volumes(tmp_path / "liver", ".nii.gz")
    assert "-u " in refused(capsys, folder, "-u", folder / "nowhere")
    assert "the same folder is given twice" in refused(capsys, folder, "-u", folder / "images")
    assert "--dataset_name a__b: expected letters" in refused(capsys, folder, "--dataset_name", "a__b")
    for file in (folder / "images").iterdir():
        file.unlink()
    assert "images: no images there (.nii.gz, " in refused(capsys, folder)


def test_png_that_do_not_fit(tmp_path, nnunet_raw, capsys):
    folder = pngs(tmp_path / "vessels")
    assert "has label values 255" in refused(capsys, folder)
    colour = np.zeros((12, 16, 3), np.uint8)
    io.imsave(folder / "images" / "b.png", colour, check_contrast=False)
    assert "b.png: the case has 3 channels, expected 1" in refused(capsys, folder, names="255=vessel")
    io.imsave(folder / "labels" / "a.png", colour, check_contrast=False)
    assert "a.png: is a colour image; a label has one value per pixel" in refused(capsys, folder, names="255=vessel")
    write_volume(folder / "images" / "v.nii.gz", np.zeros((4, 5, 6), np.int16))
    write_volume(folder / "labels" / "v.nii.gz", np.zeros((4, 5, 6), np.uint8))
    assert "PNG images are mixed with volumes" in refused(capsys, folder, names="255=vessel")


def test_dicom_folders_that_do_not_hold_one_whole_series(tmp_path, nnunet_raw, capsys):
    folder = volumes(tmp_path / "ct", ".nii.gz", ("gap", "two", "none"))
    for file in (folder / "images").iterdir():
        file.unlink()
    array = np.zeros((4, 5, 6), np.int16)
    replicas.dicom_series(folder / "images" / "gap", array, skip=(2,))
    replicas.dicom_series(folder / "images" / "two", array)
    replicas.dicom_series(folder / "images" / "two", array, series="2")
    (folder / "images" / "none").mkdir()
    (folder / "images" / "none" / "readme.txt").touch()
    printed = refused(capsys, folder)
    assert "gap: slices are between 2.5 and 5 mm apart; some are missing" in printed
    assert "two: holds 2 DICOM series, expected 1" in printed
    assert "none: holds 0 DICOM series, expected 1" in printed
