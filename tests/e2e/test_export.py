"""Bundles of trained models against ``nnUNetv2_predict`` itself, and in an environment without PyTorch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.commands import run_command
from tests.e2e.conftest import read_segmentation, real_data
from tests.model_folders import FAST_RESAMPLING, make_model

LABELS = ("anterior", "posterior")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two real images."""
    folder = tmp_path_factory.mktemp("images")
    for file in sorted((real_data() / "hippocampus" / "images").glob("*_0000.nii.gz"))[:2]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Two folds of a 3D network at another spacing than the images."""
    folder = tmp_path_factory.mktemp("results")
    return make_model(folder, folds=(0, 1), patch_size=[40, 32, 40], spacing=[0.9, 0.8, 1.1], **FAST_RESAMPLING)


def export(*arguments: object, code: int = 0) -> str:
    found, printed = run_command(["nnUNetv2_kd", "export", *arguments], os.environ)
    assert found == code, printed[-4000:]
    return printed


def predict(bundle: Path, *arguments: object) -> None:
    result = subprocess.run([sys.executable, bundle, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def bundle(model, images, tmp_path_factory) -> Path:
    """Both folds, checked on the images."""
    target = tmp_path_factory.mktemp("export") / "bundle"
    printed = export("-m", model, "-o", target, "--check", images, "--min-agreement", "0.999")
    assert "folds 0, 1, fp32" in printed
    assert "voxels differ from nnUNetv2_predict" in printed
    return target


def test_an_export_needs_no_other_packages_than_its_extra_brings(model, images, tmp_path):
    declared = [sys.executable, "-W", "ignore", "-m", "tests.declared", "export", "nnunet_kd.cli"]
    command = [*declared, "export", "-m", str(model), "-o", str(tmp_path / "bundle"), "--check", str(images)]
    command += ["--min-agreement", "0.999"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "bundle" / "bundle.json").is_file()


def test_the_check_is_part_of_the_bundle(bundle):
    check = json.loads((bundle / "bundle.json").read_text())["check"]
    assert check["images"] == 2
    assert check["voxels_that_differ"] <= 5e-4  # random networks have more voxels near a tie than trained ones
    assert set(check["dice"]) == set(LABELS)
    assert min(check["dice"].values()) > 0.999
    assert set(check["seconds"]) == {"nnUNetv2_predict", "bundle"}


def test_a_bundle_runs_without_pytorch_network_and_write_access(images, bundle, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    install = [venv / "bin" / "pip", "install", "-q", "-r", bundle / "requirements.txt"]
    subprocess.run(install, check=True, capture_output=True, text=True)
    packages = {p.name.split("-")[0].lower() for p in venv.glob("lib/python*/site-packages/*.dist-info")}
    assert {"numpy", "scipy", "openvino", "simpleitk"} <= packages
    assert not packages & {"torch", "nnunetv2", "nnunet_kd"}
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(bundle, elsewhere)
    for path in (elsewhere, *elsewhere.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    command = [venv / "bin" / "python", elsewhere, "-i", images, "-o", tmp_path / "out"]
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = []  # this machine does not let us take the network away
    result = subprocess.run([*alone, *command], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert result.returncode == 0, result.stderr
    assert "2 cases predicted" in result.stdout
    predict(bundle, "-i", images, "-o", tmp_path / "here")
    assert len(list((tmp_path / "out").iterdir())) == 2
    for file in (tmp_path / "out").iterdir():
        assert (read_segmentation(file) == read_segmentation(tmp_path / "here" / file.name)).mean() >= 0.9999


def test_eight_bits_keep_the_labels(model, images, bundle, tmp_path):
    target, arguments = tmp_path / "int8", ("-m", model, "-f", "0", "--precision", "int8", "--calibrate", images)
    printed = export(*arguments, "-o", target, "--check", images, "--min-agreement", "0.9")
    assert "Dice between int8 and fp32" in printed
    content = json.loads((target / "bundle.json").read_text())
    assert min(content["check"]["dice_with_fp32"].values()) > 0.9
    assert content["network"]["files"] == {"openvino": "network.xml"}
    assert not (target / "network.onnx").exists()
    two_folds = (bundle / "network.bin").stat().st_size
    assert (target / "network.bin").stat().st_size < 0.25 * two_folds


def test_probabilities_feed_nnunets_ensembling(images, bundle, tmp_path):
    for name in ("a", "b"):
        predict(bundle, "-i", images, "-o", tmp_path / name, "--save_probabilities")
    command = ["nnUNetv2_ensemble", "-i", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "both", "-np", "1"]
    code, printed = run_command(command, os.environ)
    assert code == 0, printed
    for file in (tmp_path / "a").glob("*.nii.gz"):
        assert np.array_equal(read_segmentation(file), read_segmentation(tmp_path / "both" / file.name))
