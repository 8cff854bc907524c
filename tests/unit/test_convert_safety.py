"""What ``nnUNetv2_kd convert`` promises: whole or absent, nothing lost, repeatable, links, any number of processes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nnunet_kd.cli import main
from nnunet_kd.dataset_conversion import convert as conversion
from nnunet_kd.dataset_conversion.cases import Case
from nnunet_kd.dataset_conversion.splits import five_folds, hold_out, leave_one_group_out
from nnunet_kd.dataset_conversion.transfer import remap
from tests import replicas

TARGET = "Dataset055_SegTHOR"


@pytest.fixture
def raw(tmp_path):
    return replicas.segthor(tmp_path / "SegTHOR", train=range(1, 7), test=(41,))


def convert(raw, *options):
    main(["convert", "SegTHOR", "-i", str(raw), "-np", "1", "--allow_missing", *options])


def contents(folder: Path) -> dict[str, str]:
    """Every file with the hash of its bytes."""
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


def test_the_same_download_gives_the_same_bytes_whatever_the_number_of_processes(tmp_path, nnunet_raw):
    raw = replicas.lits(tmp_path / "LiTS", train=(0, 1, 28), test=(0,))
    command = ["convert", "LiTS", "-i", str(raw), "--allow_missing"]
    results = []
    for processes in ("1", "1", "2"):
        main([*command, "-np", processes, "--overwrite"])
        results.append(contents(nnunet_raw / "Dataset029_LiTS"))
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 9
    again = replicas.lits(tmp_path / "elsewhere" / "LiTS", train=(0, 1, 28), test=(0,))
    main(["convert", "LiTS", "-i", str(again), "--allow_missing", "-np", "1", "--overwrite"])
    assert contents(nnunet_raw / "Dataset029_LiTS") == results[0]


def test_compressed_files_hold_no_time_and_no_name(tmp_path, nnunet_raw):
    raw = replicas.acdc(tmp_path / "ACDC", train=(1,), test=())
    main(["convert", "ACDC", "-i", str(raw), "--allow_missing", "--overwrite", "-np", "1"])
    files = list((nnunet_raw / "Dataset027_ACDC").rglob("*.nii.gz"))
    assert len(files) == 4
    for file in files:
        flags, time = file.read_bytes()[3], file.read_bytes()[4:8]
        assert (flags, time) == (0, bytes(4)), file  # neither a name nor a time in the gzip header


def test_hard_links_share_their_bytes(raw, nnunet_raw):
    convert(raw, "--link")
    for copy, source in (("imagesTr/Patient_01_0000", "Patient_01"), ("labelsTr/Patient_01", "GT")):
        assert (nnunet_raw / TARGET / f"{copy}.nii.gz").samefile(raw / "train" / "Patient_01" / f"{source}.nii.gz")


def test_symbolic_links_are_absolute_and_files_that_need_a_change_are_written(tmp_path, nnunet_raw, monkeypatch):
    raw = replicas.prostate(tmp_path / "prostate", {"RUNMC": 1, "BMC": 1})
    monkeypatch.chdir(tmp_path)
    main(["convert", "ProstateMultiSite", "-i", "prostate", "--allow_missing", "--link", "symbolic", "-np", "1"])
    target = nnunet_raw / "Dataset124_ProstateMultiSite"
    image = target / "imagesTr" / "BMC_Case00_0000.nii.gz"
    assert image.is_symlink()
    assert os.readlink(image) == str((raw / "BMC" / "Case00.nii.gz").resolve())
    label = target / "labelsTr" / "BMC_Case00.nii.gz"
    assert not label.is_symlink()
    assert set(np.unique(np.asanyarray(nib.load(label).dataobj))) == {0, 1}
    before = np.unique(np.asanyarray(nib.load(raw / "BMC" / "Case00_Segmentation.nii.gz").dataobj))
    assert set(before) == {0, 1, 2}  # the download is untouched


def test_hard_links_across_file_systems_are_refused_with_the_way_out(raw, nnunet_raw, monkeypatch, capsys):
    real = Path.stat

    class Elsewhere:
        st_dev = -1

    def stat(self, **keywords):
        return Elsewhere() if self == nnunet_raw else real(self, **keywords)

    monkeypatch.setattr(Path, "exists", lambda self: os.path.exists(self))
    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(SystemExit):
        convert(raw, "--link")
    assert "on different file systems; take --link symbolic" in capsys.readouterr().err


def test_what_is_replaced_is_there_until_the_new_one_is_complete(raw, nnunet_raw, capsys):
    convert(raw)
    before = contents(nnunet_raw / TARGET)
    (raw / "train" / "Patient_06" / "GT.nii.gz").write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        convert(raw, "--overwrite")
    assert contents(nnunet_raw / TARGET) == before
    assert [f.name for f in nnunet_raw.iterdir()] == [TARGET]
    for file in ("GT", "Patient_06"):
        (raw / "train" / "Patient_06" / f"{file}.nii.gz").unlink()
    convert(raw, "--overwrite")
    assert len(list((nnunet_raw / TARGET / "labelsTr").iterdir())) == 5
    assert [f.name for f in nnunet_raw.iterdir()] == [TARGET]


def test_a_target_that_cannot_take_its_name_leaves_the_old_one(raw, nnunet_raw, monkeypatch, capsys):
    convert(raw)
    before = contents(nnunet_raw / TARGET)
    rename = os.rename

    def fail(source, target):
        if ".converting-" in str(source):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    monkeypatch.setattr("nnunet_kd.utilities.files._exchange", lambda *_: False)  # a file system that cannot do so
    with pytest.raises(SystemExit):
        convert(raw, "--overwrite")
    assert "cannot be written (Input/output error)" in capsys.readouterr().err
    assert contents(nnunet_raw / TARGET) == before
    assert [f.name for f in nnunet_raw.iterdir()] == [TARGET]


def test_a_full_disk_is_one_sentence(raw, nnunet_raw, monkeypatch, capsys):
    def fail(source, target, link):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nnunet_kd.dataset_conversion.transfer.place", fail)
    with pytest.raises(SystemExit):
        convert(raw)
    assert "Patient_01 cannot be written (No space left on device)" in capsys.readouterr().err
    assert list(nnunet_raw.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_nothing(raw, nnunet_raw, number, monkeypatch, capsys):
    transfer = conversion.transfer
    seen = []

    def transfer_and_be_stopped(*arguments):
        transfer(*arguments)
        seen.extend(f.name for f in nnunet_raw.rglob("*"))
        signal.raise_signal(number)

    monkeypatch.setattr(conversion, "transfer", transfer_and_be_stopped)
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        convert(raw)
    assert stop.value.code == 128 + number
    assert "Patient_01_0000.nii.gz" in seen  # something was written, under another name
    assert TARGET not in seen
    assert "stopped; nothing was written" in capsys.readouterr().err
    assert list(nnunet_raw.iterdir()) == []
    assert signal.getsignal(number) is handler


def left_by_a_killed_process(folder: Path, prefix: str) -> Path:
    """A folder under the name that a process which is dead would have given it."""
    program = "import sys; from pathlib import Path; from nnunet_kd.utilities.files import temporary_path as path"
    made = f"{program}; folder = path(Path(sys.argv[1]), prefix=sys.argv[2]); folder.mkdir(); print(folder)"
    return Path(subprocess.check_output([sys.executable, "-c", made, str(folder), prefix], text=True).strip())


def test_what_killed_conversions_left_is_removed(raw, nnunet_raw):
    convert(raw)
    for kind in ("converting", "replaced"):
        left = left_by_a_killed_process(nnunet_raw, f"{TARGET}.{kind}-")
        (left / "imagesTr").mkdir()
    other = left_by_a_killed_process(nnunet_raw, "Dataset001_Other.converting-")
    convert(raw, "--overwrite")
    assert {f.name for f in nnunet_raw.iterdir()} == {TARGET, other.name}


def test_a_data_set_that_was_put_aside_when_a_conversion_was_killed_is_back(raw, nnunet_raw):
    convert(raw)
    before = contents(nnunet_raw / TARGET)
    aside = left_by_a_killed_process(nnunet_raw, f"{TARGET}.replaced-")
    aside.rmdir()
    (nnunet_raw / TARGET).rename(aside)
    (raw / "train" / "Patient_06" / "GT.nii.gz").write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        convert(raw, "--overwrite")
    assert contents(nnunet_raw / TARGET) == before
    assert [f.name for f in nnunet_raw.iterdir()] == [TARGET]


def die(*arguments):
    os._exit(1)


def test_a_worker_that_dies_is_one_sentence(raw, nnunet_raw, monkeypatch, capsys):
    monkeypatch.setattr(conversion, "transfer", die)
    with pytest.raises(SystemExit) as stop:
        convert(raw, "-np", "2")
    assert stop.value.code == 2
    assert "a worker process died, likely for want of memory; convert with fewer processes" in capsys.readouterr().err
    assert list(nnunet_raw.iterdir()) == []


def test_a_dry_run_checks_and_writes_nothing(raw, nnunet_raw, capsys):
    convert(raw, "--dry_run")
    assert "Everything is as it should be; nothing was written" in capsys.readouterr().out
    (raw / "train" / "Patient_02" / "GT.nii.gz").write_bytes(b"")
    with pytest.raises(SystemExit):
        convert(raw, "--dry_run")
    assert list(nnunet_raw.iterdir()) == []


def test_the_source_is_never_replaced(tmp_path, nnunet_raw, capsys):
    replicas.segthor(nnunet_raw / TARGET, train=(1,), test=())
    with pytest.raises(SystemExit):
        convert(nnunet_raw / TARGET, "--overwrite")
    assert "which would be replaced; convert from somewhere else" in capsys.readouterr().err
    assert (nnunet_raw / TARGET / "train" / "Patient_01" / "GT.nii.gz").is_file()


def test_labels_can_take_the_geometry_of_their_images(tmp_path, nnunet_raw, capsys):
    raw = replicas.segthor(tmp_path / "SegTHOR", train=(1,), test=())
    folder = raw / "train" / "Patient_01"
    array = np.asanyarray(nib.load(folder / "GT.nii.gz").dataobj)
    replicas.write_nifti(folder / "GT.nii.gz", array, np.eye(4))
    convert(raw, "--label_geometry", "image")
    image = nib.load(folder / "Patient_01.nii.gz")
    label = nib.load(nnunet_raw / TARGET / "labelsTr" / "Patient_01.nii.gz")
    assert np.array_equal(label.affine, image.affine)
    assert label.header.get_zooms() == image.header.get_zooms()
    assert np.array_equal(np.asanyarray(label.dataobj), array)
    assert "geometry of the image taken, which differed (1: GT.nii.gz)" in capsys.readouterr().out


def test_the_record_names_the_source_of_every_file(raw, nnunet_raw):
    convert(raw)
    record = json.loads((nnunet_raw / TARGET / "conversion.json").read_text())
    assert record["cases"]["train"]["Patient_03"] == {
        "images": ["train/Patient_03/Patient_03.nii.gz"],
        "label": "train/Patient_03/GT.nii.gz",
    }
    assert record["cases"]["test"]["Patient_41"]["label"] is None
    assert any("Patient_40" in note for note in record["notes"])


def test_relabelling_by_a_table():
    values = np.array([[[0.0, 207.0], [35.0, 2.0]]])
    result = remap(values, {0: 0, 2: 0, 35: 2, 207: 1})
    assert result.dtype == np.uint8
    assert result.tolist() == [[[0, 1], [2, 0]]]
    assert remap(values, {0: 0, 2: 300, 35: 2, 207: 1}).dtype == np.uint16


def test_a_label_of_millions_takes_no_memory():
    values = np.array([[0, 4_000_000_000]], dtype=np.uint32)
    tracemalloc.start()
    assert remap(values, {0: 0, 4_000_000_000: 1}).tolist() == [[0, 1]]
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_folds_by_group_share_no_group_and_cover_all_cases():
    cases = [Case(f"p{i // 2}_{i % 2}", (), group=f"p{i // 2}") for i in range(22)]
    folds = [*five_folds(cases), *hold_out(cases, 3, "paper")]
    assert len(folds) == 6
    for fold in folds:
        groups = [{name.split("_")[0] for name in part} for part in (fold.train, fold.val)]
        assert not groups[0] & groups[1]
        assert len(fold.train) + len(fold.val) == 22
    assert sorted(n for f in folds[:5] for n in f.val) == sorted(c.name for c in cases)
    assert folds == [*five_folds(cases[::-1]), *hold_out(cases[::-1], 3, "paper")]  # whatever the order
    assert five_folds(cases[:6]) == []
    assert hold_out(cases[:6], 3, "paper") == []
    assert [f.note for f in leave_one_group_out(cases, ("p3", "p1", "none"))] == ["p3 left out", "p1 left out"]
