"""``nnUNetv2_kd evaluate``: files in, summary.json and metrics.csv out, and every mistake in one sentence."""

import csv
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from unittest.mock import Mock

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_kd.cli import main
from nnunet_kd.evaluation.segmentations import read_segmentation
from nnunet_kd.evaluation.table import case_values
from nnunet_kd.utilities import files
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.summaries import METRICS, load_summary

SPACING_XYZ = (0.5, 1.0, 2.0)
LABELS = {"background": 0, "liver": 1, "rest": 2}


def write_image(file, array, spacing=SPACING_XYZ, origin=(0.0, 0.0, 0.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: array.ndim])
    image.SetOrigin(origin[: array.ndim])
    sitk.WriteImage(image, str(file))


def write_dataset_json(folder, labels=LABELS, ending=".nii.gz", **more):
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ending, **more}
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def folders(tmp_path):
    """Two cases of 6 x 8 x 10 voxels: ``same`` is predicted perfectly, ``half`` has half of label 1 and no label 2."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for folder in (predictions, references):
        folder.mkdir()
    reference = np.zeros((6, 8, 10), np.uint8)
    reference[1:5, 2:6, 2:8] = 1
    prediction = reference.copy()
    prediction[3:] = 0
    for name, array in (("same", reference), ("half", prediction)):
        write_image(references / f"{name}.nii.gz", reference)
        write_image(predictions / f"{name}.nii.gz", array)
    write_dataset_json(tmp_path)
    return predictions, references


def evaluate(folders, *more, output=None):
    predictions, references = folders
    words = ["evaluate", "-i", predictions, "-r", references, "-np", "1", *more]
    main([str(w) for w in (*words, *(["-o", output] if output else []))])


def test_nan_is_no_background(folders, capsys):
    """SimpleITK reads it as 0."""
    labels = np.zeros((10, 8, 6), np.float32)
    labels[2, 3, 4] = np.nan
    nib.save(nib.Nifti1Image(labels, np.diag([0.5, 1, 2, 1])), folders[0] / "half.nii.gz")
    assert "half.nii.gz: 1 voxels are NaN or infinite" in refusal(capsys, folders)


def refusal(capsys, folders, *more):
    """The sentence by which a command is refused."""
    with pytest.raises(SystemExit) as caught:
        evaluate(folders, *more)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    return printed.err.splitlines()[-1]


def test_summary_table_and_screen_say_the_same(tmp_path, folders, capsys):
    evaluate(folders, output=tmp_path / "out")
    read = load_summary(tmp_path / "out" / "summary.json")
    table = read.table
    names = [list(table[column].cat.categories) for column in ("case", "label", "metric")]
    assert names == [["half", "same"], ["liver", "rest"], list(METRICS)]
    assert case_values(table, "Dice", "liver").tolist() == [2 / 3, 1]
    assert case_values(table, "HD", "liver").tolist() == [4, 0]  # two slices of 2 mm
    assert case_values(table, "volume_ref_ml", "liver").to_numpy() == pytest.approx(4 * 4 * 6 * 1e-3)
    assert np.isnan(case_values(table, "Dice", "rest")).all()
    assert read.settings["nsd_tolerance_mm"] == {"liver": 5, "rest": 1}
    assert read.settings["empty_masks"] == "nan"
    with (tmp_path / "out" / "metrics.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [(r["case"], r["label"]) for r in rows] == [(c, lb) for c in ("half", "same") for lb in ("liver", "rest")]
    assert float(rows[0]["Dice"]) == 2 / 3
    assert {r["empty_masks"] for r in rows} == {"nnU-Net"}
    printed = capsys.readouterr().out
    assert "0.8333" in printed
    assert printed.splitlines()[0] == "Means over 2 cases; distances in mm"
    assert "both masks empty" in printed


def test_nnunets_own_tools_read_the_summary(folders):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics, load_summary_json, save_summary_json
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    predictions, references = folders
    evaluate(folders)
    summary = load_summary_json(str(predictions / "summary.json"))
    assert list(summary["mean"]) == [1, 2]
    assert summary["mean"][1]["Dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert math.isnan(summary["foreground_mean"]["Dice"])  # label 2 has no value: nnU-Net's rule
    for row in summary["metric_per_case"]:
        name = row["prediction_file"].rsplit("/")[-1]
        theirs = compute_metrics(str(references / name), row["prediction_file"], SimpleITKIO(), [1, 2])["metrics"]
        for label, metrics in theirs.items():
            assert {m: row["metrics"][label][m] for m in metrics} == pytest.approx(metrics, nan_ok=True)
    save_summary_json(summary, str(predictions / "again.json"))
    again = load_summary(predictions / "again.json").table
    assert list(again["label"].cat.categories) == ["liver", "rest"]


def test_flares_rule_and_tolerances_of_ones_own(tmp_path, folders, capsys):
    evaluate(folders, "--empty", "flare", "--nsd-tolerance", "3", "liver=0.1", output=tmp_path / "out")
    read = load_summary(tmp_path / "out" / "summary.json")
    table = read.table
    assert case_values(table, "Dice", "rest").tolist() == [1, 1]
    assert read.settings["nsd_tolerance_mm"] == {"liver": 0.1, "rest": 3}
    assert "as in FLARE" in capsys.readouterr().out
    assert "FLARE" in (tmp_path / "out" / "metrics.csv").read_text()


def test_regions_and_ignore_label_of_dataset_json(tmp_path, folders):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    write_dataset_json(tmp_path, labels, regions_class_order=[1, 2])
    reference, prediction = np.ones((4, 5, 6), np.uint8), np.ones((4, 5, 6), np.uint8)
    reference[1:3, 1:3, 1:3] = 2
    reference[:, :, 4:] = 3
    prediction[1:3, 1:3, 1:3] = 2
    prediction[:, :, 5:] = 2
    for folder, array in zip(folders, (prediction, reference), strict=True):
        for name in ("same", "half"):
            write_image(folder / f"{name}.nii.gz", array)
    evaluate(folders)
    read = load_summary(folders[0] / "summary.json")
    table = read.table
    assert list(table["label"].cat.categories) == ["whole", "core"]
    assert case_values(table, "Dice").tolist() == [1, 1]
    assert case_values(table, "volume_ref_ml", "whole").to_numpy() == pytest.approx(4 * 5 * 4 * 1e-3)
    assert set(json.loads((folders[0] / "summary.json").read_text())["mean"]) == {"(1, 2)", "(2,)"}


def test_two_dimensional_images_have_lengths_in_pixels_and_no_volume(tmp_path, capsys):
    write_dataset_json(tmp_path, {"background": 0, "liver": 1}, ending=".png")
    a, b = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    a[5:10, 5:10], b[5:10, 9:14] = 1, 1
    for name, array in (("p", a), ("r", b)):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "tile.png", array, (1, 1))
    evaluate((tmp_path / "p", tmp_path / "r"))
    read = load_summary(tmp_path / "p" / "summary.json")
    table = read.table
    assert case_values(table, "HD").tolist() == [4]
    assert np.isnan(case_values(table, "volume_ref_ml")).all()
    assert read.settings["distance_unit"] == "pixels"
    assert read.settings["nsd_tolerance_mm"] == {"liver": 1}  # FLARE22's 5 are mm
    assert "pixels" in (tmp_path / "p" / "metrics.csv").read_text()
    printed = capsys.readouterr().out
    assert "distances in pixels" in printed
    assert "NSD pixels" in printed
    assert "mm" not in printed.partition("Wrote")[0]


def test_tiff_stacks_have_mm_where_a_file_says_the_spacing_and_no_mean_with_those_that_have_none(tmp_path, capsys):
    tifffile = pytest.importorskip("tifffile")
    write_dataset_json(tmp_path, {"background": 0, "cell": 1}, ending=".tiff")
    array = np.zeros((4, 6, 8), np.uint8)
    array[1:3, 2:4, 2:4] = 1
    folders = tmp_path / "p", tmp_path / "r"
    for folder in folders:
        folder.mkdir()
        tifffile.imwrite(folder / "a.tiff", array, photometric="minisblack")
    evaluate(folders)
    assert load_summary(folders[0] / "summary.json").settings["distance_unit"] == "pixels"
    for folder in folders:
        (folder / "a.json").write_text('{"spacing": [2, 0.5, 0.5]}')
    evaluate(folders)
    read = load_summary(folders[0] / "summary.json")
    table = read.table
    assert read.settings["distance_unit"] == "mm"
    assert case_values(table, "volume_ref_ml").to_numpy() == pytest.approx(8 * 0.5e-3)
    for folder in folders:
        tifffile.imwrite(folder / "b.tiff", array, photometric="minisblack")
    assert "b.tiff have no physical spacing" in refusal(capsys, folders)


def test_a_single_slice_of_known_thickness_has_a_contour_and_a_volume(folders):
    array = np.zeros((1, 8, 10), np.uint8)
    array[0, 2:6, 2:6] = 1
    for folder in folders:
        for name in ("same", "half"):
            write_image(folder / f"{name}.nii.gz", np.roll(array, 3, axis=2) if folder == folders[0] else array)
    evaluate(folders)
    read = load_summary(folders[0] / "summary.json")
    table = read.table
    assert case_values(table, "MSD", "liver").to_numpy() == pytest.approx([(4 * 1.5 + 2 * (1.0 + 0.5)) / 12] * 2)
    assert case_values(table, "volume_ref_ml", "liver").to_numpy() == pytest.approx(16e-3)


def test_labels_beyond_dataset_json_are_counted_and_named(tmp_path, folders, capsys):
    write_dataset_json(tmp_path, {"background": 0, "liver": 1})
    array = np.full((6, 8, 10), 9, np.uint8)
    write_image(folders[0] / "same.nii.gz", array)
    evaluate(folders)
    assert "WARNING: 1 files hold labels that dataset.json does not name (9)" in capsys.readouterr().out
    found = load_summary(folders[0] / "summary.json").settings["labels_not_in_dataset_json"]
    assert list(found.values()) == [[9]]


def test_missing_predictions_are_refused_or_left_out_on_request(folders, capsys):
    (folders[0] / "same.nii.gz").unlink()
    assert "no prediction for same.nii.gz" in refusal(capsys, folders)
    assert not (folders[0] / "summary.json").exists()
    evaluate(folders, "--chill")
    assert load_summary(folders[0] / "summary.json").cases == ["half"]


def test_every_bad_file_is_named_at_once(folders, capsys):
    predictions, references = folders
    shape = (6, 8, 10)
    for name in ("moved", "cut", "fraction", "damaged", "spacing"):
        write_image(references / f"{name}.nii.gz", np.ones(shape, np.uint8))
    write_image(predictions / "moved.nii.gz", np.ones(shape, np.uint8), origin=(5, 0, 0))
    write_image(predictions / "cut.nii.gz", np.ones((5, 8, 10), np.uint8))
    write_image(predictions / "spacing.nii.gz", np.ones(shape, np.uint8), spacing=(1, 1, 1))
    write_image(predictions / "fraction.nii.gz", np.full(shape, 0.5, np.float32))
    (predictions / "damaged.nii.gz").write_bytes(b"no image")
    sentence = refusal(capsys, folders)
    assert "5 of 7 cases" in sentence
    for part in ("moved.nii.gz differs from its reference in origin [5.0, 0.0, 0.0] against [0.0", "shape (5, 8, 10)"):
        assert part in sentence
    for part in ("spacing.nii.gz differs", "fraction.nii.gz has values that are not labels", "damaged.nii.gz: cannot"):
        assert part in sentence
    assert not (predictions / "summary.json").exists()


def test_complex_numbers_and_dangling_links_are_no_segmentations(folders, capsys):
    predictions, references = folders
    write_image(references / "complex.nii.gz", np.ones((6, 8, 10), np.uint8))
    write_image(predictions / "complex.nii.gz", np.full((6, 8, 10), 1 + 1j, np.complex64))
    (references / "link.nii.gz").symlink_to("same.nii.gz")
    (predictions / "link.nii.gz").symlink_to("nowhere.nii.gz")
    assert "link.nii.gz: is a folder or a link to nothing" in refusal(capsys, folders)
    (predictions / "link.nii.gz").unlink()
    (references / "link.nii.gz").unlink()
    sentence = refusal(capsys, folders)
    for part in ("1 of 3 cases", "complex.nii.gz: holds colours or complex"):
        assert part in sentence


def test_a_full_disk_keeps_the_numbers_on_the_screen_and_the_old_files(folders, capsys, monkeypatch):
    (folders[0] / "summary.json").write_text("old")
    monkeypatch.setattr(files, "sync_to_disk", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(SystemExit) as caught:
        evaluate(folders)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert "0.8333" in printed.out
    assert "metrics.csv: cannot be written (No space left" in printed.err.splitlines()[-1]
    assert sorted(f.name for f in folders[0].iterdir()) == ["half.nii.gz", "same.nii.gz", "summary.json"]
    assert (folders[0] / "summary.json").read_text() == "old"


def test_the_imaginary_part_is_not_dropped(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    file = tmp_path / "complex.tiff"
    tifffile.imwrite(file, np.full((2, 3, 4), 1 + 1j, np.complex64), photometric="minisblack")
    with pytest.raises(UserError, match=r"complex\.tiff: cannot be read .*imaginary"):
        read_segmentation(file, Tiff3DIO)


def test_a_prediction_without_reference_is_refused(folders, capsys):
    shutil.copy(folders[0] / "same.nii.gz", folders[0] / "other.nii.gz")
    assert "has no reference for other.nii.gz" in refusal(capsys, folders)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-np", "0"], "-np 0"),
        (["-o", "summary.json"], "takes a folder"),
        (["-o", f"{__file__}/out"], "not a folder that can be written to"),
        (["--nsd-tolerance", "wide"], "expected a length in mm"),
        (["--nsd-tolerance", "-1"], "not a length"),
        (["--nsd-tolerance", "spleen=2"], "spleen"),
        (["-djfile", "nowhere.json"], "no such file"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_flags_are_one_sentence(folders, capsys, more, message):
    assert message in refusal(capsys, folders, *more)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"liver": 1}, "expected an object with background"),
        ({"background": 0, "a": 1.5}, "labels.a: found 1.5"),
        ({"background": 0, "a": [1, 2]}, "regions_class_order"),
        (None, "has no labels"),
    ],
    ids=["background", "fraction", "regions", "none"],
)
def test_a_dataset_json_that_nnunet_refuses(tmp_path, folders, capsys, labels, message):
    write_dataset_json(tmp_path, labels)
    if labels is None:
        (tmp_path / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    assert message in refusal(capsys, folders)


def test_folders_that_are_not_there_or_empty(tmp_path, folders, capsys):
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refusal(capsys, (tmp_path / "nowhere", folders[1]))
    assert "holds no .nii.gz file" in refusal(capsys, (tmp_path / "empty", folders[1]))
    shutil.move(tmp_path / "dataset.json", tmp_path / "elsewhere.json")
    assert "give one with -djfile" in refusal(capsys, folders)


def test_no_reference_can_be_read(folders, capsys):
    for name in ("same", "half"):
        (folders[1] / f"{name}.nii.gz").write_bytes(b"")
    assert "no reader" in refusal(capsys, folders)


def test_workers_need_not_load_torch():
    modules = "nnunet_kd.evaluation.cases, nnunetv2.imageio.simpleitk_reader_writer"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
