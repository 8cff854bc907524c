"""The store: whole or absent, resumable, refused when it is another one, verified byte by byte."""

import json
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import blosc2
import numpy as np
import pytest

from nnunet_kd.softlabels import store as store_module
from nnunet_kd.softlabels.store import MANIFEST, MISSING, SoftLabelStore
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.preprocessed import PreprocessedImage

PATCH = (8, 8, 8)


def manifest(**identity):
    return {
        "format": 1,
        "identity": {"dtype": "uint8", "teachers": ["a"], **identity},
        "labels": {"regions": False, "heads": 3, "definition": {"background": 0, "x": 1, "y": 2}},
        "versions": {},
    }


def probabilities(seed=0, shape=(10, 9, 8)):
    p = np.random.default_rng(seed).dirichlet(np.ones(3) * 0.2, shape)
    return np.moveaxis(p, -1, 0).astype(np.float32)


def images(*cases, shape=(10, 9, 8)):
    return dict.fromkeys(cases, PreprocessedImage(shape, "abc", labeled=True))


@pytest.fixture
def store(tmp_path):
    return SoftLabelStore.create(tmp_path / "s", manifest())


def test_a_case_comes_back_as_it_was_written(store):
    store.write("case_1", probabilities(), PATCH, {"teachers": ["a"], "reference_dice": [1.0, None]})
    stored = store.read("case_1")
    assert stored.shape == (2, 10, 9, 8)
    np.testing.assert_allclose(stored[:] / 255, probabilities()[1:], atol=1.01 / 255)
    record = store.record("case_1")
    assert record["shape"] == [2, 10, 9, 8]
    assert record["dtype"] == "uint8"
    assert record["reference_dice"] == [1.0, None]
    assert len(record["sha256"]) == 64


def test_a_case_fits_the_image_it_was_exported_for(store):
    image = images("a")["a"]
    assert store.fault("a", image) == MISSING
    store.write("a", probabilities(), PATCH, {"image": "abc"})
    assert store.fault("a", image) is None
    assert "another preprocessed image" in store.fault("a", replace(image, digest="abd"))
    assert "shape (10, 9, 8)" in store.fault("a", replace(image, shape=(10, 9, 9)))
    assert store.fault("a", replace(image, labeled=False)) == "was exported as a labeled case"
    store.write("b", probabilities(), PATCH, {"image": "abc"}, {1: np.ones((2, 4), np.int32)})
    assert store.fault("b", image) == "was exported as an unlabeled case"
    assert store.fault("b", replace(image, labeled=False)) is None


def test_stores_of_earlier_versions_are_compared_in_shape(store, tmp_path):
    store.write("a", probabilities(), PATCH, {"teachers": ["a"]})
    array = blosc2.open(str(store.file("a")), mode="a")
    record = json.loads(array.schunk.vlmeta["nnunet_kd"])
    del record["case"]  # as earlier versions wrote it
    array.schunk.vlmeta["nnunet_kd"] = json.dumps(record)
    del array
    image = images("a")["a"]
    assert store.fault("a", image) is None
    assert "shape" in store.fault("a", replace(image, shape=(10, 9, 9)))
    assert store.read("a").shape == (2, 10, 9, 8)
    asked = manifest(preprocessing={"spacing": [1, 1, 1]})
    assert SoftLabelStore.create(store.folder, asked).cases() == ["a"]
    new = SoftLabelStore.create(tmp_path / "new", asked)
    with pytest.raises(UserError, match=r"identity.preprocessing.spacing is \[1, 1, 1\], asked for \[1, 1, 2\]"):
        SoftLabelStore.create(new.folder, manifest(preprocessing={"spacing": [1, 1, 2]}))


@pytest.mark.parametrize("content", [b"", b"half", None])
def test_an_empty_or_broken_file_is_to_be_exported_again(store, content):
    store.write("a", probabilities(), PATCH, {})
    whole = store.file("a").read_bytes()
    store.file("a").write_bytes(whole[: len(whole) - 7] if content is None else content)
    assert store.fault("a", images("a")["a"]) is not None
    with pytest.raises(UserError, match=r"a.b2nd: .* remove it and run nnUNetv2_kd softlabels again"):
        store.read("a")
    store.write("a", probabilities(), PATCH, {})
    assert store.read("a").shape == (2, 10, 9, 8)


def test_damaged_locations_of_an_unlabeled_case_are_noticed(store):
    store.write("a", probabilities(), PATCH, {}, {1: np.ones((50, 4), np.int32)})
    array = blosc2.open(str(store.file("a")), mode="a")
    array.schunk.vlmeta["nnunet_kd_locations"] = array.schunk.vlmeta["nnunet_kd_locations"][:-40]
    del array
    unlabeled = PreprocessedImage((10, 9, 8), "abc", labeled=False)
    assert dict(store.verify({"a": unlabeled}))["a"].startswith("has no readable locations")
    with pytest.raises(UserError, match="has no readable locations"):
        store.locations("a")


def test_what_a_killed_export_left_is_removed_by_the_next(store):
    ended = "import sys; from nnunet_kd.utilities.files import *; temporary_path(Path(sys.argv[1]), '.b2nd').touch()"
    subprocess.run([sys.executable, "-c", ended, str(store.folder)], check=True)
    assert len(list(store.folder.iterdir())) == 2
    assert store.cases() == []
    SoftLabelStore.create(store.folder, manifest())
    assert [f.name for f in store.folder.iterdir()] == [MANIFEST]


def test_another_cases_file_is_noticed(store):
    store.write("a", probabilities(), PATCH, {})
    store.file("a").rename(store.file("b"))
    assert dict(store.verify(images("b"))) == {"b": "holds the soft labels of case a"}
    with pytest.raises(UserError, match="holds the soft labels of case a"):
        store.read("b")


def test_values_are_never_others_than_those_that_were_written(store):
    store.write("a", probabilities(), PATCH, {})
    whole, content = store.file("a").read_bytes(), store.read("a")[:]
    refused = 0
    for position in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        store.file("a").write_bytes(damaged)
        try:
            np.testing.assert_array_equal(store.read("a")[:], content)
        except UserError:
            refused += 1
    assert refused > 10


def test_values_are_checked_once_for_each_file(store, monkeypatch):
    checked = []
    sha256 = store_module._sha256
    monkeypatch.setattr(store_module, "_sha256", lambda array: checked.append(1) or sha256(array))
    store.write("a", probabilities(), PATCH, {})
    checked.clear()
    for _ in range(3):
        store.read("a")
    assert len(checked) == 1
    store.write("a", probabilities(1), PATCH, {})
    checked.clear()
    store.read("a")
    assert len(checked) == 1, "the file was replaced"


@pytest.mark.parametrize(("key", "value", "fault"), [("heads", 4, "channels"), ("regions", True, "channels")])
def test_a_manifest_that_does_not_fit_its_cases_is_noticed(store, key, value, fault):
    store.write("a", probabilities(), PATCH, {})
    edited = manifest()
    edited["labels"][key] = value
    (store.folder / MANIFEST).write_text(json.dumps(edited))
    with pytest.raises(UserError, match=fault):
        SoftLabelStore.open(store.folder).read("a")
    with pytest.raises(UserError, match=f"labels.{key} is"):
        SoftLabelStore.open(store.folder, manifest())


def test_a_failed_write_leaves_nothing(store, monkeypatch):
    def full_disk(*args, **kwargs):
        Path(kwargs["urlpath"]).write_bytes(b"half")
        raise RuntimeError("Error while creating the NDArray")  # what blosc2 says of a full disk

    monkeypatch.setattr(store_module.blosc2, "asarray", full_disk)
    with pytest.raises(UserError, match=r"case_1.b2nd: cannot be written .* free some space"):
        store.write("case_1", probabilities(), PATCH, {})
    assert [f.name for f in store.folder.iterdir()] == [MANIFEST]


def test_a_store_of_other_soft_labels_is_refused_with_the_difference(store):
    with pytest.raises(UserError, match=r"identity.teachers is \['a'\], asked for \['b'\]"):
        SoftLabelStore.create(store.folder, manifest(teachers=["b"]))


def test_the_same_soft_labels_are_found_again(store):
    store.write("a", probabilities(), PATCH, {})
    assert SoftLabelStore.create(store.folder, manifest()).cases() == ["a"]


def test_a_folder_without_a_store_and_a_broken_manifest_are_refused(tmp_path):
    with pytest.raises(UserError, match="nnUNetv2_kd softlabels"):
        SoftLabelStore.open(tmp_path)
    ill_typed = json.dumps({"format": 1, "identity": {"dtype": "uint8"}, "labels": {"regions": False, "heads": "x"}})
    for content, fault in (("{", "cannot be read"), ('{"format": 1}', "not a manifest"), (ill_typed, "not a manifest")):
        (tmp_path / MANIFEST).write_text(content)
        with pytest.raises(UserError, match=fault):
            SoftLabelStore.open(tmp_path)
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest(), "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        SoftLabelStore.open(tmp_path)


@pytest.mark.parametrize("name", ["../escape", "a/b", "a\\b", ".hidden", "", "..", "a\nb"])
def test_names_that_are_no_case_names_are_refused(store, name):
    with pytest.raises(UserError, match="not a case name"):
        store.file(name)


def test_verify_finds_what_is_wrong(store):
    for case in ("good", "truncated", "resized", "stranger"):
        store.write(case, probabilities(), PATCH, {})
    store.file("truncated").write_bytes(store.file("truncated").read_bytes()[:400])
    faults = dict(store.verify(images("good", "truncated", "absent") | images("resized", shape=(10, 9, 9))))
    assert faults["good"] is None
    assert faults["absent"] == MISSING
    assert "shape" in faults["resized"]
    assert "not a case" in faults["stranger"]
    assert "cannot be read" in faults["truncated"]


def test_verify_passes_a_damaged_file_only_where_its_content_is_unchanged(store):
    store.write("a", probabilities(), PATCH, {})
    whole, content = store.file("a").read_bytes(), store.read("a")[:]
    found = 0
    for position in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        store.file("a").write_bytes(damaged)
        if dict(store.verify(images("a")))["a"] is None:
            np.testing.assert_array_equal(store.read("a")[:], content)
        else:
            found += 1
    assert found > 10


def test_float16_stores(tmp_path):
    store = SoftLabelStore.create(tmp_path, manifest(dtype="float16"))
    store.write("a", probabilities(), PATCH, {})
    assert store.read("a").dtype == np.float16
    assert dict(store.verify(images("a")))["a"] is None


def test_two_dimensional_patches_chunk_by_slice(store):
    store.write("a", probabilities(), (9, 8), {})
    assert store.read("a").chunks[1] == 1


def _write_all(folder):
    store = SoftLabelStore.create(Path(folder), manifest())
    for i in range(8):
        store.write(f"case_{i}", probabilities(i), PATCH, {})
    return len(store.cases())


def test_two_processes_may_write_the_same_store_at_once(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_write_all, [str(tmp_path)] * 2)) == [8, 8]
    store = SoftLabelStore.open(tmp_path)
    assert all(fault is None for _, fault in store.verify(images(*(f"case_{i}" for i in range(8)))))
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_reading_while_another_process_writes_never_sees_half_a_case(store):
    def rewrite():
        for _ in range(20):
            store.write("a", probabilities(), PATCH, {})

    store.write("a", probabilities(), PATCH, {})
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(rewrite)
        while not writing.done():
            assert dict(store.verify(images("a")))["a"] is None
