"""The store: whole or absent, resumable, refused when it is another one, verified byte by byte."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from nnunet_kd.errors import UserError
from nnunet_kd.softlabels import store as store_module
from nnunet_kd.softlabels.store import MANIFEST, SoftLabelStore

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


def test_missing_cases_keep_their_order(store):
    store.write("b", probabilities(), PATCH, {})
    assert store.missing(["c", "b", "a"]) == ["c", "a"]
    assert store.cases() == ["b"]


def test_a_failed_write_leaves_nothing(store, monkeypatch):
    def full_disk(*args, **kwargs):
        Path(kwargs["urlpath"]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.blosc2, "asarray", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
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
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UserError, match="not a manifest"):
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
    faults = dict(store.verify(dict.fromkeys(("good", "truncated", "absent"), (10, 9, 8)) | {"resized": (10, 9, 9)}))
    assert faults["good"] is None
    assert "missing" in faults["absent"]
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
        if dict(store.verify({"a": (10, 9, 8)}))["a"] is None:
            np.testing.assert_array_equal(store.read("a")[:], content)
        else:
            found += 1
    assert found > 10


def test_float16_stores(tmp_path):
    store = SoftLabelStore.create(tmp_path, manifest(dtype="float16"))
    store.write("a", probabilities(), PATCH, {})
    assert store.read("a").dtype == np.float16
    assert dict(store.verify({"a": (10, 9, 8)}))["a"] is None


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
    assert all(fault is None for _, fault in store.verify({f"case_{i}": (10, 9, 8) for i in range(8)}))
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_reading_while_another_process_writes_never_sees_half_a_case(store):
    def rewrite():
        for _ in range(20):
            store.write("a", probabilities(), PATCH, {})

    store.write("a", probabilities(), PATCH, {})
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(rewrite)
        while not writing.done():
            assert dict(store.verify({"a": (10, 9, 8)}))["a"] is None
