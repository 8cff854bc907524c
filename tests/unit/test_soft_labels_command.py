"""``nnUNetv2_kd softlabels``: soft labels of the preprocessed images as they are now, or one sentence."""

import json
import shutil

import blosc2
import numpy as np
import pytest

from nnunet_kd.cli import main
from nnunet_kd.data.dataset import SoftLabelDataset, UnlabeledDataset
from nnunet_kd.softlabels.store import MANIFEST
from nnunet_kd.softlabels.stores import open_store, store_folder
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.student_data import load_student
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_unlabeled_training import kd_block, trainer_of, write_maps
from tests.unit.toy_dataset import blob, make_toy, write_image

COMMAND = ["softlabels", "-d", "900", "-p", "Student", "-device", "cpu"]
CASES = [f"case_{i}" for i in range(3)]


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    """Three labeled cases, probability maps of them, and a student."""
    toy = make_toy(tmp_path, monkeypatch, cases=len(CASES))
    write_maps(toy, {name: (i, (22, 24, 20)) for i, name in enumerate(CASES)})
    toy.write_plans(kd_block(toy), "Student")
    return toy


@pytest.fixture(name="semi")
def _semi(toy):
    """The same with two unlabeled cases, a share of each batch."""
    toy.add_unlabeled("new_1", "new_2")
    write_maps(toy, {f"new_{i}": (99 + i, (20, 24, 18)) for i in (1, 2)})
    main(["preprocess-unlabeled", "-d", "900", "-np", "1"])
    toy.write_plans(kd_block(toy, fraction=0.5), "Student")
    return toy


def run(capsys, *arguments) -> str:
    main([*COMMAND, *arguments])
    return capsys.readouterr().out


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*COMMAND, *arguments])
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("nnunet_kd: ")
    return message


def ensemble_of(toy) -> TeachingEnsemble:
    kd, space = load_student(toy.preprocessed / "Student.json", "3d_fullres", toy.raw)
    return TeachingEnsemble.resolve(kd, space, toy.results, None)


def change_plans(toy, **configuration) -> None:
    file = toy.preprocessed / "Student.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"] |= configuration
    file.write_text(json.dumps(plans))


def make_earlier(toy) -> None:
    """Turns the store into one of an earlier version, which knew nothing of preprocessing."""
    ensemble = ensemble_of(toy)
    now = store_folder(ensemble)
    manifest = json.loads((now / MANIFEST).read_text())
    del manifest["identity"]["preprocessing"]
    (now / MANIFEST).write_text(json.dumps(manifest))
    for case in CASES:
        array = blosc2.open(str(now / f"{case}.b2nd"), mode="a")
        record = json.loads(array.schunk.vlmeta["nnunet_kd"])
        array.schunk.vlmeta["nnunet_kd"] = json.dumps({k: v for k, v in record.items() if k not in ("case", "image")})
        del array
    ensemble = ensemble_of(toy)
    ensemble.__dict__["identity"] = manifest["identity"]
    now.parent.rename(store_folder(ensemble).parent)


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": [2.0, 1.0, 1.0]},
        {"normalization_schemes": ["RescaleTo01Normalization"]},
    ],
)
def test_images_that_were_preprocessed_otherwise_get_soft_labels_of_their_own(toy, capsys, change):
    assert "3 cases written" in run(capsys)
    change_plans(toy, **change)
    toy.preprocess(*CASES, plans="Student")
    assert "3 cases written" in run(capsys)
    ensemble = ensemble_of(toy)
    dataset = SoftLabelDataset(ensemble.student.dataset, [open_store(ensemble)])
    for case in CASES:
        image, segmentation, _, _ = dataset.load_case(case)
        patch = image[:, :, :, :]
        assert patch.shape[1:] == segmentation.shape[1:]
        assert ((patch[1:-1].argmax(0) + 1) * (patch[1:-1].sum(0) > 0.5) == segmentation[0]).mean() > 0.95


def test_the_same_images_keep_their_soft_labels_and_a_new_one_gets_new_ones(toy, capsys):
    run(capsys)
    toy.preprocess(*CASES, plans="Student")
    assert "0 cases written" in run(capsys), "preprocessing the same again changes nothing"
    write_image(toy.raw / "imagesTr" / "case_1_0000.nii.gz", blob((22, 24, 20), 50)[0])
    toy.preprocess("case_1", plans="Student")
    assert "case_1: was exported for another preprocessed image" in refused(capsys, "--verify")
    printed = run(capsys)
    assert "1 cases written" in printed
    assert "2 were there already" in printed
    assert "3 cases are whole" in run(capsys, "--verify")


def test_stores_of_earlier_versions_are_read_and_compared_in_shape(toy, capsys):
    run(capsys)
    make_earlier(toy)
    assert "0 cases written" in run(capsys)
    assert "3 cases are whole" in run(capsys, "--verify")
    change_plans(toy, spacing=[2.0, 1.0, 1.0])
    toy.preprocess(*CASES, plans="Student")
    assert "the preprocessed image has (11, 24, 20)" in refused(capsys, "--verify")
    assert "3 cases written" in run(capsys)


def test_image_and_soft_labels_are_compared_when_a_case_is_loaded(toy, capsys):
    run(capsys)
    ensemble = ensemble_of(toy)
    store = open_store(ensemble)
    change_plans(toy, spacing=[2.0, 1.0, 1.0])
    toy.preprocess(*CASES, plans="Student")
    with pytest.raises(UserError, match=r"has shape \(22, 24, 20\), the preprocessed image has \(11, 24, 20\)"):
        SoftLabelDataset(ensemble_of(toy).student.dataset, [store]).load_case("case_0")


def test_an_unlabeled_case_that_gets_a_label_is_exported_again(semi, capsys):
    assert "5 cases written" in run(capsys)
    for kind, name, content in zip(("images", "labels"), ("new_1_0000", "new_1"), blob((20, 24, 18), 100), strict=True):
        write_image(semi.raw / f"{kind}Tr" / f"{name}.nii.gz", content)
    for file in ensemble_of(semi).student.unlabeled_folder.glob("new_1[._]*"):
        file.unlink()
    semi.preprocess("new_1")
    splits = [{"train": ["new_1", *CASES[1:]], "val": CASES[:1]}]
    (semi.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    trainer_of("Student")  # exports what does not fit any more, and logs the soft labels' Dice
    store = open_store(ensemble_of(semi))
    assert store.record("new_1")["reference_dice"][0] > 0.99
    assert "5 cases are whole" in run(capsys, "--verify")


def test_unlabeled_cases_that_the_student_does_not_use_are_neither_exported_nor_missed(semi, capsys):
    semi.write_plans(kd_block(semi, fraction=0.0), "Student")
    assert "3 cases written" in run(capsys)
    assert "3 cases are whole" in run(capsys, "--verify")
    semi.write_plans(kd_block(semi, fraction=0.5), "Student")
    printed = run(capsys, "--verify")
    assert "3 cases are whole" in printed
    assert "2 unlabeled cases are not exported: new_1; new_2" in printed
    assert "2 cases written" in run(capsys)


def test_missing_cases_are_no_files_to_remove(toy, capsys):
    assert "no soft labels here" in refused(capsys, "--verify")
    run(capsys, "--num_parts", "3", "--part_id", "1")
    message = refused(capsys, "--verify")
    assert "2 cases are missing (case_0; case_2); export them first" in message
    assert "remove" not in message


@pytest.mark.parametrize("size", [0, 100, -5])
def test_an_empty_or_truncated_file_is_exported_again(toy, capsys, size):
    run(capsys)
    file = store_folder(ensemble_of(toy)) / "case_1.b2nd"
    file.write_bytes(file.read_bytes()[:size])
    assert "case_1: " in refused(capsys, "--verify")
    assert "1 cases written" in run(capsys)
    assert "3 cases are whole" in run(capsys, "--verify")


def test_verify_notices_another_cases_file_and_an_edited_manifest(toy, capsys):
    run(capsys)
    folder = store_folder(ensemble_of(toy))
    shutil.copy(folder / "case_0.b2nd", folder / "case_1.b2nd")
    assert "case_1: holds the soft labels of case case_0" in refused(capsys, "--verify")
    assert "1 cases written" in run(capsys)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["labels"]["definition"] = {"background": 0, "b": 1, "a": 2}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert "labels.definition" in refused(capsys, "--verify")


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        *((ending, damage) for ending in (".b2nd", "_seg.b2nd", ".pkl") for damage in ("empty", "truncated")),
        ("_seg.b2nd", "missing"),
        (".pkl", "missing"),
    ],
)
def test_broken_preprocessed_files_are_one_sentence(toy, capsys, ending, damage):
    folder = ensemble_of(toy).student.folder
    file = folder / f"case_1{ending}"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else 60])
    message = refused(capsys)
    assert f"{folder}: the preprocessed files of case case_1 cannot be read" in message
    assert "preprocess this case again" in message


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd"])
def test_damaged_values_of_preprocessed_files_are_one_sentence(toy, capsys, ending):
    file = ensemble_of(toy).student.folder / f"case_1{ending}"
    content = bytearray(file.read_bytes())
    content[200 : len(content) - 400] = b"\xff" * (len(content) - 600)
    file.write_bytes(content)
    assert "the preprocessed files of case case_1 cannot be read" in refused(capsys)


def test_an_image_of_another_shape_than_its_segmentation_is_refused(toy, capsys):
    file = ensemble_of(toy).student.folder / "case_1.b2nd"
    file.unlink()
    blosc2.asarray(np.zeros((1, 3, 4, 5), np.float32), urlpath=str(file))
    assert "image and segmentations have the shapes (1, 3, 4, 5), (1, 22, 24, 20)" in refused(capsys)


@pytest.mark.parametrize("content", ["", "mixed"])
def test_a_folder_without_preprocessed_cases_is_one_sentence(toy, capsys, content):
    folder = ensemble_of(toy).student.folder
    if content == "mixed":
        (folder / "case_1.npz").write_bytes(b"")
    else:
        for file in folder.iterdir():
            file.unlink()
    assert f"{folder}: no preprocessed data of one kind" in refused(capsys)


def test_broken_unlabeled_cases_are_one_sentence_for_the_loader_too(semi, capsys):
    run(capsys)
    space = ensemble_of(semi).student
    (space.unlabeled_folder / "new_1.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="the preprocessed files of case new_1 cannot be read"):
        UnlabeledDataset(space).load_case("new_1")


def test_a_full_disk_is_one_sentence_and_leaves_whole_cases(toy, capsys, monkeypatch):
    write = blosc2.asarray
    written = []

    def full_after_one(*args, **kwargs):
        if written:
            raise RuntimeError("Error while creating the NDArray")
        written.append(kwargs["urlpath"])
        return write(*args, **kwargs)

    with monkeypatch.context() as full:
        full.setattr(blosc2, "asarray", full_after_one)
        message = refused(capsys)
    assert "case_1.b2nd: cannot be written (Error while creating the NDArray); free some space" in message
    folder = store_folder(ensemble_of(toy))
    assert sorted(f.name for f in folder.iterdir()) == ["case_0.b2nd", MANIFEST]
    assert "2 cases written" in run(capsys)
