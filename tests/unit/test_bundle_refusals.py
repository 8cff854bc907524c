"""Damaged and hostile bundles, broken images and models that no bundle can hold: one sentence, nothing done."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnunet_kd.cli import main as cli
from nnunet_kd.export import agreement, bundle
from nnunet_kd.export.describe import describe
from nnunet_kd.export.runtime import load
from nnunet_kd.export.runtime.main import main
from nnunet_kd.export.runtime.verify import BundleError, file_sha256
from nnunet_kd.teachers.model import find_model
from tests.model_folders import make_model
from tests.unit.toy_dataset import blob, write_image

PATCH = {"patch_size": [8, 8, 8]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A bundle that is as it should be."""
    root = tmp_path_factory.mktemp("bundle")
    (root / "bundle").mkdir()
    model = find_model(make_model(root, **PATCH))
    bundle.write_bundle(model, describe(model), bundle.Settings(), root / "bundle")
    return root / "bundle"


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "bundle")
    return tmp_path / "bundle"


def change(folder: Path, edit) -> None:
    """Edits ``bundle.json``."""
    content = json.loads((folder / "bundle.json").read_text())
    edit(content)
    (folder / "bundle.json").write_text(json.dumps(content))


def overwrite(file: Path) -> None:
    """Other content of the same size."""
    file.write_bytes(b"0" * file.stat().st_size)


def entry(path: str, value):
    """An edit that sets one entry, ``a/b/c``."""

    def edit(content: dict) -> None:
        *parents, last = path.split("/")
        for key in parents:
            content = content[key]
        content[last] = value

    return edit


def listed(name: str, source: str = "network.bin"):
    """An edit that lists a file with size and checksum of another."""

    def edit(content: dict) -> None:
        content["files"][name] = content["files"][source]

    return edit


DAMAGE = {
    "changed network": (lambda f: overwrite(f / "network.bin"), "changed"),
    "shortened network": (lambda f: (f / "network.xml").write_text("<net/>"), "changed"),
    "missing network": (lambda f: (f / "network.onnx").unlink(), "missing"),
    "changed code": (lambda f: (f / "kd_bundle" / "predictor.py").write_text("print('executed')"), "changed"),
    "module beside": (lambda f: (f / "numpy.py").write_text("print('executed')"), "not part of the bundle"),
    "module inside": (lambda f: (f / "kd_bundle" / "x.so").write_bytes(b""), "not part of the bundle"),
    "link out": (
        lambda f: (
            shutil.move(f / "network.bin", f.parent / "network.bin"),
            (f / "network.bin").symlink_to(f.parent / "network.bin"),
        ),
        "no regular file",
    ),
    "no description": (lambda f: (f / "bundle.json").unlink(), "no such file"),
    "no JSON": (lambda f: (f / "bundle.json").write_text("{"), "cannot be read"),
    "deep JSON": (lambda f: (f / "bundle.json").write_text("[" * 100000), "cannot be read"),
    "a list": (lambda f: (f / "bundle.json").write_text("[]"), "JSON object"),
    "NaN": (lambda f: change(f, entry("network/step_size", float("nan"))), "NaN"),
    "other format": (lambda f: change(f, entry("format", 2)), "format 2"),
    "no files": (lambda f: change(f, entry("files", {})), "lists no files"),
    "path upwards": (lambda f: change(f, listed("../network.bin")), "lists the file"),
    "absolute path": (lambda f: change(f, listed("/etc/passwd")), "lists the file"),
    "no checksum": (lambda f: change(f, entry("files/network.bin", {"bytes": 1})), "checksum"),
    "size of text": (lambda f: change(f, entry("files/network.bin/bytes", "1")), "checksum"),
    "unlisted network": (lambda f: change(f, entry("network/files", {"openvino": "/tmp/x.xml"})), "network.files"),
    "unknown engine": (lambda f: change(f, entry("network/files", {"pickle": "network.bin"})), "network.files"),
    "huge patch": (lambda f: change(f, entry("network/patch_size", [4096] * 3)), "patch_size"),
    "other patch": (lambda f: change(f, entry("network/patch_size", [8, 8, 16])), "bundle.json says"),
    "empty patch": (lambda f: change(f, entry("network/patch_size", [0, 8, 8])), "patch_size"),
    "too many channels": (lambda f: change(f, entry("network/inputs", 2)), "network.inputs"),
    "channels as text": (lambda f: change(f, entry("network/inputs", "1")), "network.inputs"),
    "other outputs": (lambda f: change(f, entry("network/outputs", 9)), "bundle.json says"),
    "mirrors nowhere": (lambda f: change(f, entry("network/mirror_axes", [3])), "mirror_axes"),
    "no step": (lambda f: change(f, entry("network/step_size", 0)), "step_size"),
    "precision": (lambda f: change(f, entry("network/precision", "fp8")), "network.precision"),
    "reader": (lambda f: change(f, entry("image/reader", "os.system")), "image.reader"),
    "ending": (lambda f: change(f, entry("image/file_ending", "/../x")), "image.file_ending"),
    "axes": (lambda f: change(f, entry("preprocessing/transpose", [0, 1, 1])), "transpose"),
    "spacing": (lambda f: change(f, entry("preprocessing/spacing", [1, 0, 1])), "spacing"),
    "two numbers": (lambda f: change(f, entry("preprocessing/spacing", [1, 1])), "spacing"),
    "normalisation": (
        lambda f: change(f, entry("preprocessing/normalization", [{"scheme": "eval"}])),
        "normalization.scheme",
    ),
    "order": (lambda f: change(f, entry("probabilities_resampling/order", 3)), "probabilities_resampling.order"),
    "regions": (lambda f: change(f, entry("labels/regions_class_order", [1])), "regions_class_order"),
    "no labels": (lambda f: change(f, entry("labels", None)), "labels"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_hostile_bundle_is_refused(copy, tmp_path, damage, capsys):
    act, sentence = DAMAGE[damage]
    act(copy)
    with pytest.raises(BundleError, match=sentence):
        load(copy)
    write_image(tmp_path / "in" / "case_0000.nii.gz", blob((9, 9, 9), 0)[0])
    assert main(copy, ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.count("\n") == 1
    assert "executed" not in printed.out
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_changed_code_of_a_bundle_is_not_executed_by_it(copy, tmp_path):
    (copy / "kd_bundle" / "predictor.py").write_text("print('executed')")
    command = [sys.executable, "-S", str(copy), "-i", str(tmp_path), "-o", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)  # -S: the check needs the standard library only
    assert result.returncode == 2
    assert "predictor.py: has changed" in result.stderr
    assert "executed" not in result.stdout
    assert not (tmp_path / "out").exists()


def test_broken_images_are_named_and_skipped(whole, tmp_path, capsys):
    images, output = tmp_path / "in", tmp_path / "out"
    write_image(images / "a_0000.nii.gz", blob((12, 9, 9), 0)[0])
    (images / "b_0000.nii.gz").write_bytes(b"no image")
    write_image(images / "c_0000.nii.gz", blob((9, 9, 9), 1)[0])
    write_image(images / "c_0001.nii.gz", blob((9, 9, 9), 1)[0])
    write_image(images / "d_0000.nii.gz", np.zeros((7, 9, 11), np.float32))
    (images / "notes.txt").write_text("")
    assert main(whole, ["-i", str(images), "-o", str(output), "-np", "1"]) == 2
    errors = capsys.readouterr().err
    assert "b: " in errors
    assert "b_0000.nii.gz: cannot be read" in errors
    assert "c: has shape (2, 9, 9, 9), expected 1 channels" in errors
    assert "2 cases were skipped" in errors
    assert sorted(f.name for f in output.iterdir()) == ["a.nii.gz", "d.nii.gz"]


def test_prediction_continues(whole, tmp_path, capsys):
    write_image(tmp_path / "in" / "a_0000.nii.gz", blob((9, 9, 9), 0)[0])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.nii.gz").write_bytes(b"mine")
    arguments = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--c"]
    assert main(whole, arguments) == 0
    assert "1 were there already" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.nii.gz").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["-i", "/none"], "no such folder"), (["-i", "."], "holds no images"), (["-np", "0"], "-np")],
)
def test_a_users_mistake_is_one_sentence(whole, tmp_path, capsys, arguments, sentence, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(whole, ["-i", ".", "-o", "out", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_arrays_that_do_not_fit_are_refused(whole):
    predictor = load(whole, threads=1)
    with pytest.raises(BundleError, match="expected 1 channels"):
        predictor.predict(np.zeros((2, 9, 9, 9)), (1, 1, 1))
    with pytest.raises(BundleError, match="spacing"):
        predictor.predict(np.zeros((9, 9, 9)), (1, 0, 1))
    assert predictor.predict(blob((9, 9, 9), 0)[0], (1, 1, 1)).shape == (9, 9, 9)


def test_the_runtime_imports_neither_torch_nor_nnunet(whole, tmp_path):
    write_image(tmp_path / "in" / "a_0000.nii.gz", blob((9, 9, 9), 0)[0])
    code = (
        f"import sys; sys.path.insert(0, {str(whole)!r}); from pathlib import Path; from kd_bundle.main import main;"
        f"assert main(Path({str(whole)!r}), ['-i', {str(tmp_path / 'in')!r}, '-o', {str(tmp_path / 'out')!r}]) == 0;"
        "print('HEAVY', [m for m in ('torch', 'nnunetv2', 'nnunet_kd', 'skimage', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in result.stdout, result.stderr


CANNOT = {
    "cascade": ({"previous_stage": "3d_lowres"}, {}, "is cascaded"),
    "preprocessor": ({"preprocessor_name": "Mine"}, {}, "preprocessor_name: found 'Mine'"),
    "normalisation": ({"normalization_schemes": ["Mine"]}, {}, "normalization_schemes: found 'Mine'"),
    "resampling": ({"resampling_fn_data": "mine"}, {}, "resampling_fn_data: found 'mine'"),
    "cubic probabilities": (
        {"resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}},
        {},
        "resamples probabilities",
    ),
    "reader": ({}, {"image_reader_writer": "MyIO"}, "image_reader_writer: found 'MyIO'"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(tmp_path, capsys, case):
    changes, plans_changes, sentence = CANNOT[case]
    model = make_model(tmp_path / "results")
    plans = json.loads((model / "plans.json").read_text()) | plans_changes
    plans["configurations"]["3d_fullres"] |= changes
    if case == "cascade":
        plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"]
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SystemExit, match="2"):
        cli(["export", "-m", str(model), "-o", str(tmp_path / "new" / "bundle")])
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_bundle_is_replaced_only_on_request_and_nothing_else_is(whole, copy, tmp_path, capsys):
    model = make_model(tmp_path / "results", **PATCH)
    mine = tmp_path / "mine"
    mine.mkdir()
    for target, more, sentence in ((copy, [], "add --overwrite"), (mine, ["--overwrite"], "is no bundle")):
        with pytest.raises(SystemExit, match="2"):
            cli(["export", "-m", str(model), "-o", str(target), *more])
        assert sentence in capsys.readouterr().err
    before = file_sha256(copy / "bundle.json")
    (copy / "mine.txt").write_text("")
    cli(["export", "-m", str(model), "-o", str(copy), "--overwrite"])
    assert file_sha256(copy / "bundle.json") != before
    assert load(copy, threads=1).engine == "openvino"
    assert sorted(os.listdir(copy.parent)) == ["bundle", "mine", "results"]
    printed = capsys.readouterr().out
    assert f"python {copy} -i INPUT -o OUTPUT" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--precision", "int8"], "belong together"),
        (["--calibrate", "x"], "belong together"),
        (["--min-agreement", "0.9"], "beside --check"),
        (["--check", "x", "--min-agreement", "1.5"], "from 0 to 1"),
        (["-f", "one"], "-f one"),
        (["-f", "3"], "no finished training"),
        (["-chk", "checkpoint_best.pth"], "no finished training"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, capsys, arguments, sentence):
    model = make_model(tmp_path / "results", **PATCH)
    with pytest.raises(SystemExit, match="2"):
        cli(["export", "-m", str(model), "-o", str(tmp_path / "bundle"), *arguments])
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


FOUND = {
    "images": 2,
    "voxels_that_differ": 2e-4,
    "dice": {"anterior": 0.9991, "posterior": None},
    "seconds": {"nnUNetv2_predict": 30.0, "bundle": 2.0},
    "processors": 2,
}


def test_a_bundle_below_the_threshold_is_not_written(copy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(agreement, "check_bundle", lambda *_: FOUND)
    model, before = make_model(tmp_path / "results", **PATCH), file_sha256(copy / "bundle.json")
    arguments = ["export", "-m", str(model), "-o", str(copy), "--overwrite", "--check", str(tmp_path)]
    with pytest.raises(SystemExit, match="2"):
        cli(arguments)
    assert "2.0e-04 of the voxels differ from nnUNetv2_predict, more than 1.0e-04" in capsys.readouterr().err
    assert file_sha256(copy / "bundle.json") == before
    assert sorted(os.listdir(copy.parent)) == ["bundle", "results"]
    cli([*arguments, "--min-agreement", "0.999"])
    assert "anterior 0.9991, posterior -; 2.0 s instead of 30.0 s, 15.0 times less" in capsys.readouterr().out
    assert json.loads((copy / "bundle.json").read_text())["check"] == FOUND | {"min_agreement": 0.999}
    assert load(copy, threads=1)


def test_onnxruntime_takes_over_where_openvino_is_missing(whole, monkeypatch):
    image = blob((12, 9, 10), 3)[0]
    first = load(whole, threads=1)
    monkeypatch.setitem(sys.modules, "openvino", None)
    second = load(whole, threads=1)
    assert (first.engine, second.engine) == ("openvino", "onnx")
    assert (first.predict(image, (1, 1, 1)) == second.predict(image, (1, 1, 1))).mean() > 0.999
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BundleError, match="pip install -r"):
        load(whole)


def test_the_container_has_no_privileges_and_no_pytorch(whole):
    lines = (whole / "Dockerfile").read_text().splitlines()
    keywords = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert keywords == ["FROM", "RUN", "COPY", "RUN", "COPY", "RUN", "USER", "ENTRYPOINT"]
    assert "USER 1000" in lines
    assert any(line.startswith("# docker run") and "--network none" in line for line in lines)
    packages = {line.split(">=")[0] for line in (whole / "requirements.txt").read_text().splitlines()}
    assert packages == {"numpy", "scipy", "openvino", "SimpleITK"}
