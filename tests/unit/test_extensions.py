"""Trainers and recipes in folders of the user's own (docs/how-to/extend.md)."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_kd.cli import main
from nnunet_kd.planning.recipes import load_recipe, recipe_names
from nnunet_kd.utilities.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "extend.md"
TRAINER = "nnUNetTrainerKDShortEnsemble"
LOOK_UP = f"""
import pickle
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
mine, ours = find("{TRAINER}"), find("nnUNetTrainerKDEnsemble")
assert mine is find("{TRAINER}") and pickle.loads(pickle.dumps(mine)) is mine
assert issubclass(mine, ours) and mine.__module__ == "{TRAINER}"
print("FOUND", mine.__name__)
"""


@pytest.fixture(name="parts")
def _parts(tmp_path, monkeypatch) -> Path:
    for room in ("trainers", "plans"):
        (tmp_path / room).mkdir()
    monkeypatch.setenv("NNUNET_KD_EXTENSIONS", str(tmp_path))
    return tmp_path


def look_up() -> subprocess.CompletedProcess:
    """In a fresh process, as nnUNetv2_train looks for trainers."""
    folder = Path(__file__).parents[2] / "nnunet_kd" / "_discovery"
    environment = os.environ | {"nnUNet_extTrainer": str(folder)}
    return subprocess.run([sys.executable, "-c", LOOK_UP], env=environment, capture_output=True, text=True, timeout=300)


def test_nnunet_finds_the_trainer_of_the_page(parts):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (parts / "trainers" / f"{TRAINER}.py").write_text(code)
    result = look_up()
    assert f"FOUND {TRAINER}" in result.stdout, result.stderr


def test_a_trainer_that_cannot_be_imported_is_one_sentence(parts):
    file = parts / "trainers" / f"{TRAINER}.py"
    file.write_text("import not_installed\n")
    result = look_up()
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert f"NNUNET_KD_EXTENSIONS: {file} cannot be imported" in result.stderr


def test_recipes_are_offered_and_checked(parts):
    recipe = {"source": "me", "kd": {"schedule": {"num_epochs": 3}}, "notes": ["none"]}
    (parts / "plans" / "mine2026.json").write_text(json.dumps(recipe))
    assert {"mine2026", "hinton2015"} <= set(recipe_names())
    assert load_recipe("mine2026").kd == recipe["kd"]


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"source": "me", "kd": 1, "notes": []}'])
def test_a_file_that_is_no_recipe_is_one_sentence(parts, content):
    file = parts / "plans" / "mine2026.json"
    file.write_text(content)
    with pytest.raises(UserError, match=re.escape(str(file))):
        load_recipe("mine2026")


def test_env_prints_the_folders_and_refuses_what_is_none(parts, monkeypatch, capsys):
    main(["env"])
    assert f"export NNUNET_KD_EXTENSIONS='{parts}'" in capsys.readouterr().out.splitlines()
    monkeypatch.setenv("NNUNET_KD_EXTENSIONS", str(parts / "gone"))
    with pytest.raises(SystemExit):
        main(["env"])
    assert "gone is no folder" in capsys.readouterr().err
    monkeypatch.delenv("NNUNET_KD_EXTENSIONS")
    main(["env"])
    assert len(capsys.readouterr().out.splitlines()) == 1
