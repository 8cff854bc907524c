"""A data set, recipe, network, loss term and trainer from outside the package, one file each, train and predict."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from nnunet_kd.utilities.programs import find_program
from tests.unit.toy_dataset import blob, write_image

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "networks.md"
NETWORK = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)[1]
TERM = '''"""Mean power of the difference of probabilities."""

from dataclasses import dataclass

from nnunet_kd.losses.soft_labels import SOFT_LABEL_TERMS, SoftLabelLoss, SoftLabelTerm
from nnunet_kd.utilities.schema import number


class Power(SoftLabelLoss):
    def __init__(self, exponent, sigmoid):
        super().__init__()
        self.exponent, self.sigmoid = exponent, sigmoid

    def compare(self, comparison):
        difference = (comparison.probabilities - comparison.soft_labels).abs() ** self.exponent
        return comparison.mean(difference.mean(1, keepdim=True) * comparison.valid)


@SOFT_LABEL_TERMS.register("power", "mean power of the difference of probabilities")
@dataclass(frozen=True)
class PowerTerm(SoftLabelTerm):
    exponent: float = number(3.0, "exponent of the difference", above=0)

    def build(self, sigmoid, ddp):
        return Power(self.exponent, sigmoid)
'''
TRAINER = """from nnunet_kd.trainers import nnUNetTrainerKDEnsemble


class nnUNetTrainerKDTwice(nnUNetTrainerKDEnsemble):
    def training_losses(self, data, target):
        loss, terms = super().training_losses(data, target)
        return 2 * loss, terms
"""
DATASET = """from nnunet_kd.dataset_conversion.declare import RawDataset


def find(scan, options):
    labels = scan.folder("labels")
    for path, match in scan.images(scan.folder("images"), r"b(\\d+)"):
        scan.add("train", match[0], [path], scan.image(labels, match[0], "the label"), match[0])


DATASET = RawDataset(
    name="Blobs", dataset_id=977, title="random blobs", layout="images/b1.nii.gz, labels/b1.nii.gz", find=find,
    markers=("images/b*.nii.gz",), channel_names={0: "MRI"}, labels={"background": 0, "ball": 1, "core": 2},
    label_values={0: 0, 1: 1, 2: 2}, licence="CC0", citation="Nobody", page="https://example.org", expected={},
)
"""
RECIPE = {
    "source": "nobody",
    "kd": {
        "student": {"trainer": "nnUNetTrainerKDTwice", "start": "random"},
        "distillation": {"power": {"weight": 2.0, "exponent": 4.0}},
        "schedule": {"num_epochs": 2, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "seed": 1},
    },
    "notes": ["a term, a trainer and a network that the package does not have"],
}


@pytest.mark.slow
def test_one_file_each_is_all_that_new_parts_need(tmp_path):
    parts = tmp_path / "parts"
    for room, name, content in (
        ("losses", "power.py", TERM),
        ("networks", "toy_net.py", NETWORK),
        ("trainers", "nnUNetTrainerKDTwice.py", TRAINER),
        ("dataset_conversion", "Dataset977_Blobs.py", DATASET),
        ("plans", "twice2026.json", json.dumps(RECIPE)),
    ):
        (parts / room).mkdir(parents=True)
        (parts / room / name).write_text(content)
    for i in range(6):
        image, labels = blob((24, 24, 24), i)
        write_image(tmp_path / "download" / "images" / f"b{i}.nii.gz", image)
        write_image(tmp_path / "download" / "labels" / f"b{i}.nii.gz", labels)
    discovery = Path(__file__).parents[2] / "nnunet_kd" / "_discovery"
    environment = os.environ | {
        **{f"nnUNet_{room}": str(tmp_path / room) for room in ("raw", "preprocessed", "results")},
        "NNUNET_KD_EXTENSIONS": str(parts),
        "NNUNET_KD_ALLOWED_PACKAGES": "toy_net",
        "nnUNet_extTrainer": str(discovery),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
    }
    for room in ("raw", "preprocessed", "results"):
        (tmp_path / room).mkdir()

    def run(*command, **variables):
        words = [find_program(command[0]), *map(str, command[1:])]
        done = subprocess.run(words, env=environment | variables, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    run("nnUNetv2_kd", "convert", "Blobs", "-i", tmp_path / "download", "-np", "1")
    run("nnUNetv2_plan_and_preprocess", "-d", "977", "-c", "3d_fullres", "-npfp", "1", "-np", "1")
    environment["nnUNet_n_proc_DA"] = "0"
    small = ("-d", "977", "-c", "3d_fullres", "--patch_size", "16", "16", "16", "--batch_size", "2")
    schedule = [f"schedule.{k}={v}" for k, v in RECIPE["kd"]["schedule"].items()]
    run("nnUNetv2_kd", "plan", *small, "--role", "teacher", "--student", "width=0.125", "-o", "T", "--set", *schedule)
    run("nnUNetv2_train", "977", "3d_fullres", "0", "-tr", "nnUNetTrainerKDTeacher", "-p", "T", "-device", "cpu")
    teacher = "nnUNetTrainerKDTeacher__T__3d_fullres:0"
    planned = run(
        *("nnUNetv2_kd", "plan", *small, "--recipe", "twice2026", "--student", "toy", "--teachers", teacher, "-o", "S"),
    )
    assert "-tr nnUNetTrainerKDTwice -p S" in planned
    assert "nnUNetv2_kd softlabels" in planned, "the next commands are those of the trainer that it extends"
    kd = json.loads((tmp_path / "preprocessed" / "Dataset977_Blobs" / "S.json").read_text())["kd"]
    assert kd["distillation"]["power"] == {"weight": 2.0, "ramp": "none", "ramp_length": 1.0, "exponent": 4.0}
    weights = {name: term["weight"] for name, term in kd["distillation"].items() if isinstance(term, dict)}
    assert weights == {"kl": 0, "mse": 0, "soft_ce": 0, "soft_dice": 0, "power": 2}, "a recipe names what it wants"
    run("nnUNetv2_train", "977", "3d_fullres", "0", "-tr", "nnUNetTrainerKDTwice", "-p", "S", "-device", "cpu")
    folder = tmp_path / "results" / "Dataset977_Blobs" / "nnUNetTrainerKDTwice__S__3d_fullres" / "fold_0"
    (log,) = folder.glob("training_log_*.txt")
    printed = re.findall(r"loss terms (\{.*\})", log.read_text())
    terms = [json.loads(line.replace("'", '"')) for line in printed]
    assert len(terms) == 2
    assert all(set(t) == {"kd_hard", "kd_power"} and t["kd_power"] > 0 for t in terms)
    total = [float(x) for x in re.findall(r"train_loss (-?[\d.]+)", log.read_text())]
    assert total == pytest.approx([2 * sum(t.values()) for t in terms], abs=1e-3), "the trainer's own step"

    del environment["NNUNET_KD_EXTENSIONS"]
    environment["PYTHONPATH"] = str(parts / "networks")
    run(
        *("nnUNetv2_predict", "-i", tmp_path / "raw" / "Dataset977_Blobs" / "imagesTr", "-o", tmp_path / "out"),
        *("-d", "977", "-c", "3d_fullres", "-f", "0", "-tr", "nnUNetTrainerKDTwice", "-p", "S", "-device", "cpu"),
        *("-npp", "0", "-nps", "0"),
    )
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 6
