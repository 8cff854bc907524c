"""nnU-Net finds the trainers after a regular and an editable install, beside a user's own; Python never breaks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.conftest import ROOT

LOOK_UP = """
import pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
a, b = find("nnUNetTrainerKDEnsemble"), find("nnUNetTrainerKDEnsemble")
assert a is b and pickle.loads(pickle.dumps(a)) is a
assert a.__module__ == "nnunet_kd.trainers.nnUNetTrainerKDEnsemble"
print("FOUND", find("nnUNetTrainerKDTeacher").__name__)
"""


def environment() -> dict[str, str]:
    """Ours without what an install of this environment has already set."""
    return {k: v for k, v in os.environ.items() if k not in ("nnUNet_extTrainer", "PYTHONPATH")}


def python(venv: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Runs a virtual environment's Python."""
    return subprocess.run(
        [venv / "bin" / "python", *arguments],
        env=environment() | variables,
        cwd=venv,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request, tmp_path_factory) -> Path:
    """A fresh virtual environment that borrows all packages but ours and has the project installed."""
    venv = tmp_path_factory.mktemp(request.param) / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    for entry in Path(torch.__file__).parents[1].iterdir():
        if "nnunet_kd" not in entry.name:
            (site / entry.name).symlink_to(entry)
    source = tmp_path_factory.mktemp("source") / "project"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "*.egg-info", "build", "__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "-q"]
    target = ["-e", str(source)] if request.param == "editable" else [str(source)]
    result = python(venv, "-m", "pip", "install", *options, *target)
    assert result.returncode == 0, result.stderr
    if request.param == "wheel":
        shutil.rmtree(source)
    return venv


def test_stock_nnunet_finds_the_trainers(installed):
    result = python(installed, "-c", LOOK_UP)
    assert "FOUND nnUNetTrainerKDTeacher" in result.stdout, result.stderr


def test_stock_train_command_reaches_the_trainer(installed, workspace):
    code = (
        "import sys; sys.argv[0] = 'nnUNetv2_train'; from nnunetv2.run.run_training import run_training_entry as m; m()"
    )
    variables = {k: v for k, v in workspace.environment.items() if k.startswith("nnUNet_") and k != "nnUNet_extTrainer"}
    result = python(
        installed, "-c", code, "4", "3d_fullres", "0", "-tr", "nnUNetTrainerKDEnsemble", "-device", "cpu", **variables
    )
    assert result.returncode == 2
    assert "nnunet_kd: teacher" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_users_own_trainer_folder_keeps_working(installed, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\nclass Mine(nnUNetTrainer): pass\n"
    )
    code = LOOK_UP + "print('MINE', find('Mine').__name__)"
    result = python(installed, "-c", code, nnUNet_extTrainer=str(tmp_path))
    assert "MINE Mine" in result.stdout, result.stderr
    assert "FOUND" in result.stdout


def test_the_env_command_prints_the_same_setting_as_the_hook(installed):
    hook = python(installed, "-c", "import os; print(os.environ['nnUNet_extTrainer'])").stdout.strip()
    printed = python(installed, "-m", "nnunet_kd.cli", "env").stdout.strip()
    assert printed == f"export nnUNet_extTrainer='{hook}'"
    assert Path(hook).is_dir()


def test_recipes_and_trainers_are_in_the_installed_package(installed):
    code = "from importlib.resources import files; print(sorted(f.name for f in files('nnunet_kd.plans').iterdir()))"
    assert "noothout2022.json" in python(installed, "-c", code).stdout


def test_a_broken_hook_never_breaks_python(installed):
    site = next(installed.glob("lib/python*/site-packages"))
    hook = site / "nnunet_kd_discovery.pth"
    whole = hook.read_text()
    try:
        hook.write_text(whole.replace("_discovery", "_gone"))
        gone = python(installed, "-c", "import os; print('alive', os.environ.get('nnUNet_extTrainer'))")
        hook.write_text(whole.replace("os.path.isdir(p)", "undefined_name(p)"))
        raising = python(installed, "-c", "print('alive')")
    finally:
        hook.write_text(whole)
    for result in (gone, raising):
        assert result.returncode == 0
        assert "alive" in result.stdout
        assert result.stderr == ""
    assert "None" in gone.stdout


def test_uninstalling_removes_the_hook(installed):
    assert python(installed, "-m", "pip", "uninstall", "-y", "-q", "nnunet-kd").returncode == 0
    assert not list(next(installed.glob("lib/python*/site-packages")).glob("nnunet_kd_discovery.pth"))
