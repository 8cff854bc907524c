"""A workspace of a few hundred kilobytes that holds one of every file that a command reads."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nnunet_kd.cli import main
from tests.report_data import CASES, write_comparison
from tests.unit.test_online_trainers import TEACHER, make_teacher
from tests.unit.test_plan_command import DATASET
from tests.unit.toy_dataset import Toy, make_toy

DATA = f"preprocessed/{DATASET}"
IMAGES = f"{DATA}/nnUNetPlans_3d_fullres"
RAW = f"raw/{DATASET}"
MODEL = f"results/{DATASET}/{TEACHER}"
CHECKPOINT = f"{MODEL}/fold_0/checkpoint_final.pth"
LAST = "case_2"  # the one case that the store lacks
ONE_STEP = {"num_epochs": 1, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}


@dataclass(frozen=True)
class Template:
    """The workspace as it is built, and where its soft labels are."""

    root: Path
    store: str

    def copy(self, target: Path) -> None:
        """A workspace of one's own."""
        shutil.copytree(self.root, target)


def environment(root: Path) -> dict[str, str]:
    """Environment of a command in a workspace."""
    folders = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    return os.environ | folders | {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1"}


def build(root: Path) -> Template:
    """Builds the workspace below ``root``."""
    with pytest.MonkeyPatch.context() as patch:
        toy = make_toy(root, patch, cases=3)
        make_teacher(toy, folds=(0, 1))
        student = {"start": "random"}
        kd = {"role": "student", "teachers": [{"folder": TEACHER}], "schedule": ONE_STEP, "student": student}
        toy.write_plans(kd, "Student", batch_size=1)
        toy.write_plans(kd | {"ensemble": {"from_folder": str(root / "maps")}}, "FromMaps", batch_size=1)
        toy.add_unlabeled("new")
        main(["softlabels", "-d", "900", "-p", "Student", "-device", "cpu"])
        (store,) = (toy.preprocessed / "kd_softlabels").glob("*/nnUNetPlans_3d_fullres")
        (store / f"{LAST}.b2nd").unlink()
    _write_download(toy, root / "download")
    _write_maps(toy, root / "maps")
    for rater in "AB":
        shutil.copytree(toy.raw / "labelsTr", root / "raters" / rater)
    _write_comparison(root / "comparison")
    return Template(root, str(store.relative_to(root)))


def _write_download(toy: Toy, folder: Path) -> None:
    """Images and labels as ``convert folders`` takes them."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for case in ("case_0", "case_1"):
        shutil.copy(toy.raw / "imagesTr" / f"{case}_0000.nii.gz", folder / "images" / f"{case}.nii.gz")
        shutil.copy(toy.raw / "labelsTr" / f"{case}.nii.gz", folder / "labels" / f"{case}.nii.gz")


def _write_maps(toy: Toy, folder: Path) -> None:
    """Probability maps of all cases, as nnU-Net writes them."""
    folder.mkdir()
    for i in range(3):
        probabilities = np.full((3, 22, 24, 20), 0.25, np.float32)
        probabilities[0] = 0.5
        np.savez(folder / f"case_{i}.npz", probabilities=probabilities)


def _write_comparison(folder: Path) -> None:
    """Predictions of two methods, references, benchmark, groups: three cases."""
    write_comparison(folder)
    for case in CASES[3:]:
        for file in [f for f in folder.rglob("*") if f.name.startswith(case)]:
            file.unlink()
    shutil.rmtree(folder / "undistilled twin")
