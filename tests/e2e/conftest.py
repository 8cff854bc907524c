"""A small real data set, planned, preprocessed and with trained teachers, made once for all end-to-end tests."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.e2e.commands import run_command

ROOT = Path(__file__).resolve().parents[2]
DATASET = "Dataset004_Hippocampus"
CONFIGURATION = "3d_fullres"
TRAIN, TEST = 8, 2
SMALL = "width=0.25,blocks=0.5,decoder=1"
SHORT = [
    "schedule.num_epochs=2",
    "schedule.val_iterations_per_epoch=1",
    "optimizer.name=adam",
    "optimizer.initial_lr=0.001",
]


def pytest_collection_modifyitems(items):
    """Everything here takes minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


def real_data() -> Path:
    """Folder of the real images; tests are skipped where there is none."""
    for folder in (os.environ.get("NNUNET_KD_TEST_DATA"), ROOT.parent / "shared" / "data"):
        if folder and (Path(folder) / "hippocampus" / "images").is_dir():
            return Path(folder)
    pytest.skip("no real images: set NNUNET_KD_TEST_DATA to a folder with hippocampus/images and hippocampus/labels")


@dataclass(frozen=True)
class Workspace:
    """nnU-Net's three folders and the environment that names them."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the commands: small worker pools, batches made in the main process."""
        return os.environ | {
            "nnUNet_raw": str(self.root / "raw"),
            "nnUNet_preprocessed": str(self.root / "preprocessed"),
            "nnUNet_results": str(self.root / "results"),
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "0",
        }

    @property
    def preprocessed(self) -> Path:
        """Preprocessed folder of the data set."""
        return self.root / "preprocessed" / DATASET

    @property
    def results(self) -> Path:
        """Results folder of the data set."""
        return self.root / "results" / DATASET

    @property
    def raw(self) -> Path:
        """Raw folder of the data set."""
        return self.root / "raw" / DATASET

    def run(self, *command: object, code: int = 0, **environment: str) -> str:
        """Runs a command to its expected exit code and returns what it printed."""
        found, printed = run_command(command, self.environment | environment)
        assert found == code, f"{' '.join(map(str, command))} exited with {found}:\n{printed[-4000:]}"
        return printed

    def plan(self, name: str, *arguments: str, base: str = "nnUNetPlans") -> None:
        """``nnUNetv2_kd plan`` with a short schedule."""
        settings = [a for a in arguments if "." in a.split("=")[0]]
        options = [a for a in arguments if a not in settings]
        self.run("nnUNetv2_kd", "plan", "-d", "4", "-p", base, "-o", name, *options, "--set", *SHORT, *settings)

    def train(
        self, plans: str, fold: str, trainer: str, *options: str, configuration: str = CONFIGURATION, code: int = 0
    ) -> str:
        """``nnUNetv2_train`` on the CPU."""
        return self.run(
            "nnUNetv2_train",
            "4",
            configuration,
            fold,
            "-tr",
            trainer,
            "-p",
            plans,
            "-device",
            "cpu",
            *options,
            code=code,
        )


def _copy_cases(source: Path, raw: Path) -> None:
    cases = sorted(p.name.removesuffix(".nii.gz") for p in (source / "labels").glob("*.nii.gz"))[: TRAIN + TEST]
    for i, case in enumerate(cases):
        where = "Tr" if i < TRAIN else "Ts"
        for kind, file in (("images", f"{case}_0000.nii.gz"), ("labels", f"{case}.nii.gz")):
            (raw / f"{kind}{where}").mkdir(parents=True, exist_ok=True)
            shutil.copy(source / kind / file, raw / f"{kind}{where}" / file)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": TRAIN,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def _add_lowres(plans_file: Path) -> None:
    """A configuration at twice the spacing, which nnU-Net's planner does not make for images this small."""
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [1.5, 1.25, 1.5],
    }
    plans_file.write_text(json.dumps(plans))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Workspace:
    """Planned and preprocessed hippocampus images with two folds."""
    data = real_data()
    space = Workspace(tmp_path_factory.mktemp("nnunet"))
    _copy_cases(data / "hippocampus", space.raw)
    space.run(
        "nnUNetv2_plan_and_preprocess",
        "-d",
        "4",
        "-c",
        "2d",
        "3d_fullres",
        "-np",
        "2",
        "2",
        "--verify_dataset_integrity",
        nnUNet_n_proc_DA="1",  # nnU-Net 2.8.1 cannot plan with 0
    )
    _add_lowres(space.preprocessed / "nnUNetPlans.json")
    space.run("nnUNetv2_preprocess", "-d", "4", "-c", "3d_lowres", "-plans_name", "nnUNetPlans", "-np", "2")
    cases = sorted(f.name.removesuffix(".nii.gz") for f in (space.raw / "labelsTr").iterdir())
    splits = [{"train": cases[2:], "val": cases[:2]}, {"train": cases[:-2], "val": cases[-2:]}]
    (space.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    return space


@pytest.fixture(scope="session")
def teachers(workspace) -> dict[str, str]:
    """Short-trained teachers: two folds in 3D, one in 3D at lower resolution, one in 2D; name -> model folder."""
    folders = {}
    for configuration, folds, batch_size in (("3d_fullres", "01", 2), ("3d_lowres", "0", 2), ("2d", "0", 32)):
        name = f"Teacher_{configuration}"
        workspace.plan(
            name, "-c", configuration, "--role", "teacher", "--student", SMALL, "--batch_size", str(batch_size),
            "schedule.iterations_per_epoch=60", "schedule.seed=1", "optimizer.initial_lr=0.003",
        )  # fmt: skip
        for fold in folds:
            workspace.train(name, fold, "nnUNetTrainerKDTeacher", configuration=configuration)
        folders[configuration] = f"nnUNetTrainerKDTeacher__{name}__{configuration}"
    return folders


def read_segmentation(file: Path) -> np.ndarray:
    """Voxels (z, y, x) of a segmentation file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
