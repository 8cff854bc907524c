"""Bad input of ``nnUNetv2_kd convert``: every kind gives its message and exit code 2, and leaves nothing behind."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_kd.cli import main
from tests import replicas


def small_segthor(raw: Path) -> Path:
    return replicas.segthor(raw, train=(1, 2), test=(41,))


MAKE: dict[str, Callable[[Path], Path]] = {
    "SegTHOR": small_segthor,
    "ACDC": lambda raw: replicas.acdc(raw, train=(1,), test=(), sform_code=0),
    "LiTS": lambda raw: replicas.lits(raw, train=(0, 1), test=()),
    "KiTS19": lambda raw: replicas.kits19(raw, numbers=(0, 210)),
    "FLARE22": lambda raw: replicas.flare22(raw, labeled=1, unlabeled=(1, 1001), validation=0),
    "ProstateMultiSite": lambda raw: replicas.prostate(raw, {"RUNMC": 1, "BMC": 1}),
    "PROMISE12": lambda raw: replicas.promise12(raw, train=(0,), test=()),
    "MICCAI2012Brain": lambda raw: replicas.brain(raw, train=1, test=0, ids=[35, 44, 4, 59, 38, 100]),
}
PATIENT = "train/Patient_01/Patient_01.nii.gz"
GT = "train/Patient_01/GT.nii.gz"


def change(file: str, edit: Callable[[np.ndarray], np.ndarray], dtype: str | None = None, matrix=None):
    """Writes a file again with other voxels."""

    def apply(raw: Path) -> None:
        image = nib.load(raw / file)
        array = edit(np.asanyarray(image.dataobj).copy())
        replicas.write_nifti(raw / file, array, image.affine if matrix is None else matrix, dtype)

    return apply


def header(file: str, **fields):
    return lambda raw: replicas.edit_header(raw / file, **fields)


def put(array: np.ndarray, value: float) -> np.ndarray:
    array = array.astype(np.float32)
    array[2, 2, 2] = value
    return array


def remove(file: str):
    return lambda raw: (raw / file).unlink()


def copy(source: str, target: str):
    def apply(raw: Path) -> None:
        (raw / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(raw / source, raw / target)

    return apply


def write(file: str, content: bytes):
    return lambda raw: (raw / file).write_bytes(content)


def truncate(file: str):
    return lambda raw: (raw / file).write_bytes((raw / file).read_bytes()[:-40])


def shear(raw: Path) -> None:
    matrix = replicas.affine((0.98, 0.98, 2.5))
    matrix[0, 1] = 0.4
    for file in (PATIENT, GT):
        image = nib.load(raw / file)
        volume = nib.Nifti1Image(np.asanyarray(image.dataobj).copy(), matrix)
        volume.set_sform(matrix, 1)
        volume.set_qform(None, 0)
        nib.save(volume, raw / file)


def colour(raw: Path) -> None:
    image = nib.load(raw / PATIENT)
    array = np.zeros(image.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(array, image.affine), raw / PATIENT)


def dangle(raw: Path) -> None:
    (raw / PATIENT).unlink()
    (raw / PATIENT).symlink_to(raw / "nowhere.nii.gz")


MOVED = replicas.affine((0.98, 0.98, 2.5), origin_mm=(91, 120, -50))
CASES = {
    "missing label": ("SegTHOR", remove(GT), ["Patient_01/GT: the label is missing"]),
    "missing image": ("SegTHOR", remove(PATIENT), ["Patient_01/Patient_01: the image is missing"]),
    "broken link": ("SegTHOR", dangle, ["Patient_01.nii.gz: cannot be read"]),
    "extra file": (
        "SegTHOR",
        copy(GT, "train/Patient_01/GT_old.nii.gz"),
        ["GT_old.nii.gz: is not part of the data set"],
    ),
    "unexpected case": (
        "SegTHOR",
        copy("test/Patient_41.nii.gz", "test/Patient_77.nii.gz"),
        ["test case Patient_77 is not part of the data set"],
    ),
    "two endings": (
        "SegTHOR",
        lambda raw: nib.save(nib.load(raw / GT), raw / "train/Patient_01/GT.nii"),
        ["GT.nii.gz: GT.nii is there too; remove one of the two"],
    ),
    "truncated": ("SegTHOR", truncate(PATIENT), ["Patient_01.nii.gz: cannot be read"]),
    "empty file": ("SegTHOR", write(PATIENT, b""), ["Patient_01.nii.gz: cannot be read"]),
    "not an image": (
        "SegTHOR",
        write(PATIENT, b"<html>sign in to download</html>"),
        ["Patient_01.nii.gz: cannot be read"],
    ),
    "other shape": (
        "SegTHOR",
        change(GT, lambda a: a[:-1]),
        ["GT.nii.gz: differs from its image in shape [5, 5, 4] against [6, 5, 4]."],
    ),
    "other spacing": (
        "SegTHOR",
        change(GT, lambda a: a, matrix=replicas.affine((0.98, 0.98, 3))),
        ["spacing (0.98, 0.98, 3) against (0.98, 0.98, 2.5) mm", "--label_geometry image takes the image's"],
    ),
    "other origin": (
        "SegTHOR",
        change(GT, lambda a: a, matrix=MOVED),
        ["origin (91, 120, -50) against (90, 120, -50) mm"],
    ),
    "other direction": (
        "SegTHOR",
        change(GT, lambda a: a, matrix=replicas.affine((0.98, 0.98, 2.5), replicas.RAS)),
        ["GT.nii.gz: differs from its image in direction of the axes"],
    ),
    "NaN": (
        "SegTHOR",
        change(PATIENT, lambda a: put(a, np.nan), "float32"),
        ["Patient_01.nii.gz: 1 voxels are NaN or infinite"],
    ),
    "infinite": ("SegTHOR", change(PATIENT, lambda a: put(a, np.inf), "float32"), ["1 voxels are NaN or infinite"]),
    "unknown label": (
        "SegTHOR",
        change(GT, lambda a: put(a, 7), "uint8"),
        ["GT.nii.gz: has label values 7, which the data set should not have; known ones are 0, 1, 2, 3, 4"],
    ),
    "negative label": ("SegTHOR", change(GT, lambda a: put(a, -1), "int16"), ["has label values -1, which"]),
    "broken label": (
        "SegTHOR",
        change(GT, lambda a: put(a, 1.5), "float32"),
        ["has values that are not whole numbers, such as 1.5"],
    ),
    "NaN label": ("SegTHOR", change(GT, lambda a: put(a, np.nan), "float32"), ["not whole numbers, such as nan"]),
    "four dimensions": (
        "SegTHOR",
        change(PATIENT, lambda a: a[..., None].repeat(2, 3)),
        ["has 4 dimensions [6, 5, 4, 2], expected 3"],
    ),
    "two dimensions": ("SegTHOR", change(PATIENT, lambda a: a[..., 0]), ["has 2 dimensions [6, 5], expected 3"]),
    "sheared axes": ("SegTHOR", shear, ["Patient_01.nii.gz: cannot be read (", "orthonormal"]),
    "colours": ("SegTHOR", colour, ["Patient_01.nii.gz: holds colours or complex values"]),
    "ACDC without Info.cfg": (
        "ACDC",
        remove("database/training/patient001/Info.cfg"),
        ["patient001/Info.cfg: is missing; it says which frames"],
    ),
    "ACDC with another Info.cfg": (
        "ACDC",
        write("database/training/patient001/Info.cfg", b"ED: 1\nHeight: 180\n"),
        ["Info.cfg: expected the lines 'ED: NUMBER' and 'ES: NUMBER'"],
    ),
    "ACDC without a frame": (
        "ACDC",
        remove("database/training/patient001/patient001_frame10.nii.gz"),
        ["patient001_frame10: the ES image is missing"],
    ),
    "ACDC frame of no phase": (
        "ACDC",
        copy(
            "database/training/patient001/patient001_frame01.nii.gz",
            "database/training/patient001/patient001_frame05.nii.gz",
        ),
        ["patient001_frame05.nii.gz: is not part of the data set"],
    ),
    "LiTS without a segmentation": (
        "LiTS",
        remove("Training Batch 1/segmentation-0.nii"),
        ["volume-0.nii: segmentation-0 is missing"],
    ),
    "LiTS without a volume": (
        "LiTS",
        remove("Training Batch 1/volume-1.nii"),
        ["segmentation-1.nii: volume-1 is missing"],
    ),
    "LiTS with a number twice": (
        "LiTS",
        copy("Training Batch 1/volume-1.nii", "Training Batch 2/volume-1.nii"),
        ["Training Batch 2/volume-1.nii: ", "has the same number; keep one of the two"],
    ),
    "KiTS19 without a segmentation": (
        "KiTS19",
        remove("data/case_00000/segmentation.nii.gz"),
        ["case_00000/segmentation: the label is missing"],
    ),
    "FLARE22 unlabeled case twice": (
        "FLARE22",
        copy(
            "FLARE22_UnlabeledCase1-1000/Case_00001_0000.nii.gz",
            "FLARE22_UnlabeledCase1001-2000/Case_00001_0000.nii.gz",
        ),
        ["2 unlabeled cases would be called Case_00001; keep one of them"],
    ),
    "FLARE22 validation label without an image": (
        "FLARE22",
        copy("Training/FLARE22_LabeledCase50/labels/FLARE22_Tr_0001.nii.gz", "Validation/FLARETs_0009.nii.gz"),
        ["FLARETs_0009.nii.gz: there is no validation image of that name"],
    ),
    "FLARE22 without a label": (
        "FLARE22",
        remove("Training/FLARE22_LabeledCase50/labels/FLARE22_Tr_0001.nii.gz"),
        ["FLARE22_Tr_0001: the label is missing", "no training case with a label was found"],
    ),
    "prostate without a label": (
        "ProstateMultiSite",
        remove("BMC/Case00_Segmentation.nii.gz"),
        ["BMC/Case00_segmentation: the label is missing"],
    ),
    "prostate without a site": (
        "ProstateMultiSite",
        lambda raw: shutil.rmtree(raw / "BMC"),
        ["BMC: site BMC is missing"],
    ),
    "PROMISE12 without its raw file": (
        "PROMISE12",
        remove("TrainingData_Part1/Case00.raw"),
        ["Case00.mhd: cannot be read"],
    ),
    "brain with a FreeSurfer id": (
        "MICCAI2012Brain",
        change("training-labels/1000_3_glm.nii.gz", lambda a: put(a, 1035), "int16"),
        ["1000_3_glm.nii.gz: has label values 1035, which the data set should not have"],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_bad_data_are_named_and_nothing_is_left(kind, tmp_path, nnunet_raw, capsys):
    name, spoil, messages = CASES[kind]
    raw = MAKE[name](tmp_path / "download")
    spoil(raw)
    with pytest.raises(SystemExit) as stop:
        main(["convert", name, "-i", str(raw), "-np", "1"])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    for message in messages:
        assert message in printed, printed
    assert list(nnunet_raw.iterdir()) == []


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["convert", *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_all_problems_are_listed_at_once(tmp_path, nnunet_raw, capsys):
    raw = replicas.segthor(tmp_path / "SegTHOR", train=range(1, 40), test=range(41, 61))
    (raw / "train/Patient_03/GT.nii.gz").unlink()
    truncate("train/Patient_05/GT.nii.gz")(raw)
    change("train/Patient_07/GT.nii.gz", lambda a: put(a, 9), "uint8")(raw)
    change("train/Patient_09/Patient_09.nii.gz", lambda a: put(a, np.nan), "float32")(raw)
    printed = refused(capsys, "SegTHOR", "-i", raw, "-np", "1")
    assert f"{raw}: 5 problems; nothing was written." in printed
    for words in (
        "Patient_03/GT: the label",
        "Patient_05/GT.nii.gz: cannot",
        "label values 9",
        "NaN",
        "Patient_03, Patient_40",
    ):
        assert words in printed
    assert list(nnunet_raw.iterdir()) == []


def test_a_variant_without_a_label_is_recognised(tmp_path, nnunet_raw, capsys):
    raw = replicas.segthor(tmp_path / "SegTHOR", train=(1, 2), test=())
    for n in (1, 2):
        change(f"train/Patient_0{n}/GT.nii.gz", lambda a: np.where(a == 4, 0, a))(raw)
    printed = refused(capsys, "SegTHOR", "-i", raw, "-np", "1")
    assert "no case has the label aorta; is this another variant of the data set?" in printed


def test_missing_cases_can_be_accepted_and_extra_files_left_out(tmp_path, nnunet_raw, capsys):
    raw = small_segthor(tmp_path / "SegTHOR")
    (raw / "train/Patient_02/GT.nii.gz").unlink()
    shutil.copy(raw / GT, raw / "train" / "notes.nii.gz")
    (raw / "._Patient_01.nii.gz").write_bytes(b"of the operating system")
    main(["convert", "SegTHOR", "-i", str(raw), "-np", "1", "--allow_missing", "--allow_extra"])
    printed = capsys.readouterr().out
    assert "note: " in printed
    assert "Patient_02/GT: the label is missing" in printed
    assert "notes.nii.gz: is not part of the data set" in printed
    labels = nnunet_raw / "Dataset055_SegTHOR" / "labelsTr"
    assert [f.name for f in labels.iterdir()] == ["Patient_01.nii.gz"]


def test_folders_that_cannot_be_the_data_set(tmp_path, nnunet_raw, capsys):
    file = tmp_path / "file"
    file.touch()
    assert "no such folder" in refused(capsys, "SegTHOR", "-i", tmp_path / "nowhere")
    assert "is not a folder" in refused(capsys, "SegTHOR", "-i", file)
    assert "does not look like SegTHOR, whose layout is: train/Patient_01/" in refused(
        capsys, "SegTHOR", "-i", tmp_path
    )
    small_segthor(tmp_path / "one")
    small_segthor(tmp_path / "two")
    assert "holds SegTHOR 2 times" in refused(capsys, "SegTHOR", "-i", tmp_path)


def test_targets_that_cannot_be_written(tmp_path, nnunet_raw, capsys, monkeypatch):
    raw = small_segthor(tmp_path / "SegTHOR")
    command = ("SegTHOR", "-i", raw, "-np", "1", "--allow_missing")
    assert "-d 0: expected a number from 1 to 999" in refused(capsys, *command, "-d", "0")
    assert "-np 0: expected at least 1" in refused(capsys, *command[:3], "-np", "0")
    (nnunet_raw.parent / "results" / "Dataset055_Other").mkdir()
    assert "-d 55: Dataset055_Other has this ID" in refused(capsys, *command)
    (nnunet_raw.parent / "results" / "Dataset055_Other").rmdir()
    (nnunet_raw / "Dataset055_SegTHOR").mkdir()
    assert "Dataset055_SegTHOR: is there already; --overwrite replaces it" in refused(capsys, *command)
    (nnunet_raw / "Dataset055_SegTHOR").rmdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert "GB free; --link needs next to none" in refused(capsys, *command)
    monkeypatch.undo()
    assert refused(capsys, "SegThor", "-i", raw).count("invalid choice: 'SegThor'") == 1


def test_variables_that_are_not_set(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert "nnUNet_raw is not set" in refused(capsys, "SegTHOR", "-i", tmp_path)
    assert "convert: name a data set (ACDC, FLARE22, " in refused(capsys)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file" / "raw"))
    (tmp_path / "file").touch()
    small_segthor(tmp_path / "SegTHOR")
    printed = refused(capsys, "SegTHOR", "-i", tmp_path / "SegTHOR", "-np", "1", "--allow_missing")
    assert "cannot be written" in printed


def test_folds_that_are_in_the_way(tmp_path, nnunet_raw, capsys):
    raw = replicas.segthor(tmp_path / "SegTHOR", train=range(1, 8), test=())
    splits = nnunet_raw.parent / "preprocessed" / "Dataset055_SegTHOR" / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text('[{"train": ["a"], "val": ["b"]}]')
    command = ("SegTHOR", "-i", raw, "-np", "1", "--allow_missing")
    assert "holds other folds, which nnU-Net would use" in refused(capsys, *command)
    main(["convert", *map(str, command), "--overwrite"])
    assert splits.read_text() == (nnunet_raw / "Dataset055_SegTHOR" / "splits_final.json").read_text()


def test_corrected_segmentations_that_are_not_there(tmp_path, nnunet_raw, capsys):
    raw = replicas.kits19(tmp_path / "kits", numbers=(0,))
    printed = refused(capsys, "KiTS19", "-i", raw, "--corrected", tmp_path, "-np", "1", "--allow_missing")
    assert "case_00015.nii.gz is not there; it holds the new segmentation" in printed


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_read_permission(tmp_path, nnunet_raw, capsys):
    raw = small_segthor(tmp_path / "SegTHOR")
    (raw / PATIENT).chmod(0)
    assert "Patient_01.nii.gz: cannot be read" in refused(capsys, "SegTHOR", "-i", raw, "-np", "1", "--allow_missing")
