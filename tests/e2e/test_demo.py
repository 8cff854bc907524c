"""``nnUNetv2_kd demo`` as a user runs it."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from nnunet_kd.demo.run import MARKER
from nnunet_kd.demo.steps import MODELS

COMMAND = [sys.executable, "-m", "nnunet_kd.cli", "demo"]


def run_demo(folder, *options):
    return subprocess.run([*COMMAND, "-o", str(folder), *options], capture_output=True, text=True)


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_folder_of_someone_else_is_never_touched(tmp_path, options):
    precious = tmp_path / "thesis.txt"
    precious.write_text("words")
    done = run_demo(tmp_path, *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_previous_demo_needs_overwrite(tmp_path):
    (tmp_path / MARKER).touch()
    done = run_demo(tmp_path)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr


@pytest.mark.slow
def test_demo_from_images_to_table(tmp_path):
    folder = tmp_path / "demo"
    done = run_demo(folder, "-device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr

    epoch = r"epoch [1-5] of 5"
    both = rf"steps 3-4 of 4, at least \d+ (s|min) left: teacher 1, {epoch}; teacher 2(, {epoch})?"
    assert re.search(rf"^{both}$", done.stdout, re.MULTILINE), done.stdout
    epoch = r"epoch [1-4] of 4"
    both = rf"steps 3-4 of 10, at least \d+ (s|min) left: the student(, {epoch})?; its twin(, {epoch})?"
    assert re.search(rf"^{both}$", done.stdout, re.MULTILINE), done.stdout

    table = {line[: len(m.name)]: line for line in done.stdout.splitlines() for m in MODELS if line.startswith(m.name)}
    assert sorted(table) == sorted(m.name for m in MODELS)
    results = json.loads((folder / "summary.json").read_text())["results"]
    for m in MODELS:
        dice = [float(word) for word in table[m.name][len(m.name) :].split()[:4]]
        assert all(math.isfinite(d) for d in dice)
        assert dice[-1] == pytest.approx(results[m.key]["mean_dice"], abs=1e-3)
    assert results["ensemble"]["mean_dice"] > 0.5
    assert results["ensemble"]["parameters"] > 10 * results["student"]["parameters"]
    assert results["ensemble"]["passes"] >= 10 * results["student"]["passes"]
    assert results["student"]["parameters"] == results["twin"]["parameters"]

    commands = [line[2:].split() for line in done.stdout.splitlines() if line.startswith("$ nnUNet")]
    assert commands[0][0] == "nnUNetv2_plan_and_preprocess"
    assert len(list((folder / "logs").glob("*.log"))) == len(commands) - 1  # distill's steps are printed too
    assert [c[:2] for c in commands[-2:]] == [["nnUNetv2_kd", "report"], ["nnUNetv2_kd", "export"]]
    (made,) = (folder / "nnUNet_results" / "Dataset999_KDDemo" / "distill_KDDemoStudent").glob("*/test_*")
    report = json.loads((made / "report" / "report.json").read_text())
    assert report["roles"] == {"student": "student", "ensemble": "ensemble", "twin": "twin"}
    assert [w.split(":")[0] for w in report["warnings"]] == [
        "6 cases are too few for any difference to be significant at 0.05"
    ]
    assert "trained on none of the evaluated cases" in report["notes"][0]
    assert "less network time per case" in report["headline"][2]["sentence"]
    assert {m["method"]: m["kd"] is not None for m in report["provenance"]["models"]} == dict.fromkeys(results, True)
    page = (made / "report" / "report.html").read_text()
    for m in MODELS:
        assert f"{results[m.key]['mean_dice']:.3f}" in page
    assert imread(made / "report" / "plots" / "case_student_median.png")[..., :3].std() > 0.05

    check = json.loads((made.parent / "bundle" / "bundle.json").read_text())["check"]
    assert check["voxels_that_differ"] < 1e-3

    again = run_demo(folder)
    assert again.returncode == 2
    assert Path(folder / "summary.json").is_file()
