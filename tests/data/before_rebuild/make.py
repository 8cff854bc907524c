"""Wrote this folder; run by hand at commit cb3557f, from its root: ``python -m tests.data.before_rebuild.make``.

It uses the code and the test helpers of that commit and is kept as the record of how the files came to be.
"""

import dataclasses
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_kd.cli import main
from nnunet_kd.config import KDConfig
from nnunet_kd.planning.recipes import recipe_names
from nnunet_kd.schema import to_dict
from nnunet_kd.softlabels.store import SoftLabelStore
from tests.unit import toy_dataset
from tests.unit.test_plan_command import DATASET, DATASET_JSON

OUTPUT = Path(__file__).parent
TEACHER = "nnUNetTrainerKDTeacher__Teacher__3d_fullres"
SHAPE = (18, 18, 18)
SCHEDULE = {"num_epochs": 3, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "save_every": 1, "seed": 5}

# Every key has another value than its default, but those that contradict another one (multi_teacher.source).
OTHER_VALUES = {
    "recipe": "mine",
    "role": "teacher",
    "base_plans": "otherPlans",
    "schedule": {
        "num_epochs": 7,
        "iterations_per_epoch": 8,
        "val_iterations_per_epoch": 9,
        "save_every": 2,
        "seed": 11,
        "precision": "bf16",
        "validate_all": "never",
    },
    "optimizer": {
        "name": "adamw",
        "initial_lr": 0.003,
        "weight_decay": 0.02,
        "momentum": 0.8,
        "lr_schedule": "cosine",
    },
    "augmentation": {
        "transforms": "DA5",
        "mixup": {"probability": 0.25, "alpha": 0.3},
        "cutmix": {"probability": 0.5, "alpha": 0.7},
    },
    "hard_loss": {
        "name": "dice_focal",
        "weight": 0.6,
        "dice_weight": 0.4,
        "other_weight": 0.3,
        "focal_gamma": 1.5,
        "focal_alpha": 0.25,
    },
    "deep_supervision": False,
    "teachers": [
        {"folder": TEACHER, "folds": [0, 1], "checkpoint": "checkpoint_best.pth"},
        {"folder": "/models/other__plans__2d", "folds": ["all"]},
    ],
    "default_teacher": "nnUNetTrainerDA5",
    "ensemble": {
        "name": "mine",
        "combine": "logits",
        "membership": "out_of_fold",
        "mirroring": False,
        "step_size": 0.75,
        "use_gaussian": False,
        "precision": "bf16",
        "from_folder": "/maps",
    },
    "store": {"dtype": "float16"},
    "distillation": {
        "kl": {
            "weight": 0.1,
            "ramp": "linear",
            "ramp_length": 0.5,
            "temperature": 3.0,
            "direction": "student_teacher",
        },
        "mse": {"weight": 0.2, "ramp": "gaussian", "ramp_length": 0.4},
        "soft_ce": {"weight": 0.3, "ramp": "fade", "ramp_length": 0.3},
        "soft_dice": {"weight": 0.4, "ramp": "linear", "ramp_length": 0.2, "batch_dice": False},
        "deep_supervision": False,
        "downsampling": "nearest",
        "normalized": False,
    },
    "features": {
        "pairs": [{"student": "encoder.0", "teacher": "encoder.1"}],
        "number_of_pairs": 3,
        "importance": {"weight": 0.01, "ramp": "linear", "ramp_length": 0.9, "exponent": 4.0, "scale": "paper"},
        "region_affinity": {"weight": 0.02, "ramp": "gaussian", "ramp_length": 0.8, "form": "mean", "norm": 1},
        "attention": {"weight": 0.03, "ramp": "fade", "ramp_length": 0.7, "exponent": 3.0},
        "pairwise": {"weight": 0.04, "ramp": "linear", "ramp_length": 0.6, "positions": 64},
        "similarity": {"weight": 0.05, "ramp": "gaussian", "ramp_length": 0.5},
        "intra_class": {"weight": 0.06, "ramp": "fade", "ramp_length": 0.4},
        "hint": {"weight": 0.07, "ramp": "linear", "ramp_length": 0.3},
        "channel_wise": {"weight": 0.08, "ramp": "gaussian", "ramp_length": 0.2, "temperature": 2.0},
    },
    "multi_teacher": {"weights": "fixed", "fixed_weights": [1.0, 2.0]},
    "unlabeled": {"fraction": 0.5, "voxel_weight": "entropy"},
    "cross_teaching": {
        "teachers": ["same"],
        "between": "students",
        "cross_teaching_weight": 0.5,
        "pseudo_supervision_weight": 0.25,
        "distillation": {
            "weight": 5.0,
            "ramp": "linear",
            "ramp_length": 0.5,
            "temperature": 2.0,
            "direction": "student_teacher",
        },
        "unlabeled": {"weight": 0.2, "ramp": "none", "ramp_length": 0.6},
        "deep_supervision": True,
        "export_teachers": False,
    },
    "student": {
        "trainer": "nnUNetTrainerKDFeature",
        "architecture": "width=0.5",
        "start": "random",
        "inherit_from": f"{TEACHER}:1",
        "twin_start": "same",
        "ema": 0.9,
        "mirroring": True,
        "check_teachers": False,
    },
}

TEACHERS = {"teachers": [{"folder": TEACHER, "folds": [0]}], "schedule": SCHEDULE}
BOTH = {"teachers": [{"folder": TEACHER, "folds": [0, 1]}], "schedule": SCHEDULE}
NO_FEATURES = {"importance": {"weight": 0.0}, "region_affinity": {"weight": 0.0}}
TRAININGS = {
    "Twin": ("nnUNetTrainerKDTeacher", {"schedule": SCHEDULE, "optimizer": {"name": "adam", "lr_schedule": "cosine"}}),
    "Ensemble": (
        "nnUNetTrainerKDEnsemble",
        {
            **BOTH,
            "distillation": {"kl": {"weight": 0.5, "ramp": "linear"}, "mse": {"weight": 2.0}},
            "unlabeled": {"fraction": 0.5, "voxel_weight": "confidence"},
            "student": {"ema": 0.5},
            "augmentation": {"mixup": {"probability": 0.5}, "cutmix": {"probability": 0.5}},
        },
    ),
    "Feature": (
        "nnUNetTrainerKDFeature",
        {**TEACHERS, "features": {"hint": {"weight": 1.0}, "attention": {"weight": 10.0, "ramp": "gaussian"}}},
    ),
    "MultiTeacher": ("nnUNetTrainerKDMultiTeacher", {**BOTH, "multi_teacher": {"weights": "inverse"}}),
    "MultiTeacherStored": (
        "nnUNetTrainerKDMultiTeacher",
        {**BOTH, "multi_teacher": {"weights": "paper", "source": "stored"}, "features": NO_FEATURES},
    ),
    "CrossTeaching": (
        "nnUNetTrainerKDCrossTeaching",
        {"schedule": SCHEDULE, "cross_teaching": {"teachers": ["Teacher", "same"]}},
    ),
}  # fmt: skip


def small(shape, seed):
    """The toy data set's images, but smaller."""
    return _blob(SHAPE, seed)


_blob, toy_dataset.blob = toy_dataset.blob, small


def make_teachers(toy):
    """A model folder with two folds of random weights."""
    toy.write_plans({"role": "teacher"}, "Teacher", features=(4, 4, 4))
    for fold in (0, 1):
        torch.manual_seed(fold)
        trainer = trainer_of("nnUNetTrainerKDTeacher", "Teacher", fold=fold)
        trainer.initialize()
        folder = Path(trainer.output_folder_base)
        trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
    shutil.copy(toy.preprocessed / "Teacher.json", folder / "plans.json")
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    for file in folder.rglob("*.txt"):
        file.unlink()
    (folder / "dataset_fingerprint.json").unlink(missing_ok=True)
    for file in folder.rglob("debug.json"):
        file.unlink()


def trainer_of(name, plans, resume=None, fold=0):
    """A trainer as nnUNetv2_train makes it."""
    trainer = get_trainer_from_args("900", "3d_fullres", fold, name, plans, resume is not None, torch.device("cpu"))
    if resume is not None:
        trainer.load_checkpoint(str(resume))
    return trainer


def write_plans(toy, golden):
    """Plans with all defaults, none and other values; those of every recipe as the plan command writes them."""
    folder = OUTPUT / "plans"
    folder.mkdir()
    plans = toy_dataset.plans_of(name="nnUNetPlans")
    del plans["configurations"]["2d"]
    for name, block in (("defaults", to_dict(KDConfig())), ("empty", {}), ("other_values", OTHER_VALUES)):
        (folder / f"{name}.json").write_text(json.dumps({**plans, "kd": block}, indent=1))
    toy.write_plans({}, "ChoiTeacher1"), toy.write_plans({}, "ChoiTeacher2")
    for recipe in recipe_names():
        main(["plan", "-d", "900", "-c", "3d_fullres", "--recipe", recipe, "--teachers", f"{TEACHER}:0", "-o", recipe])
        shutil.move(toy.preprocessed / f"{recipe}.json", folder / f"recipe_{recipe}.json")
    golden["config"] = {
        file.stem: to_dict(KDConfig.from_plans(json.loads(file.read_text()))) for file in sorted(folder.glob("*.json"))
    }
    same = [k for k in _leaves(KDConfig()) if k in _leaves(KDConfig.from_plans({"kd": OTHER_VALUES}))]
    assert [k for k, _ in same] == ["multi_teacher.source"], same


def _leaves(config, path=""):
    found = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        name = f"{path}{f.name}"
        found += _leaves(value, f"{name}.") if dataclasses.is_dataclass(value) else [(name, repr(value))]
    return found


def train(toy, golden):
    """One epoch of each training and its checkpoint, then the curves of the resumed training."""
    (OUTPUT / "checkpoints").mkdir()
    golden["curves"] = {}
    for plans, (name, block) in TRAININGS.items():
        toy.write_plans({"role": "student", **block}, plans, batch_size=4, features=(2, 2, 2))
        first = trainer_of(name, plans)
        first.on_train_start()
        toy_dataset.run_epoch(first)
        file = OUTPUT / "checkpoints" / f"{plans}.pth"
        shutil.copy(Path(first.output_folder) / "checkpoint_latest.pth", file)
        resumed = trainer_of(name, plans, file)
        resumed.on_train_start()
        toy_dataset.run_epoch(resumed)
        log = resumed.logger.local_logger.my_fantastic_logging
        curves = {k: v for k, v in log.items() if "timestamps" not in k}
        golden["curves"][plans] = {"trainer": name, **json.loads(json.dumps(curves, default=float))}


def export_float16(toy):
    """A second store, of two cases."""
    toy.write_plans({"role": "student", **TEACHERS, "store": {"dtype": "float16"}}, "Float16", features=(2, 2, 2))
    main(["softlabels", "-d", "900", "-c", "3d_fullres", "-p", "Float16", "-device", "cpu", "--labeled_only"])


def main_() -> None:
    """Writes everything."""
    golden: dict = {}
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as root:
        toy_dataset.without_figures(monkeypatch)
        toy = toy_dataset.make_toy(Path(root), monkeypatch, cases=3)
        toy.add_unlabeled("new_1")
        main(["preprocess-unlabeled", "-d", "900", "-np", "1"])
        make_teachers(toy)
        shutil.copytree(toy.results, OUTPUT / "results" / DATASET)
        write_plans(toy, golden)
        train(toy, golden)
        export_float16(toy)
        golden["stores"] = {}
        for manifest in sorted(toy.preprocessed.glob("kd_softlabels/*/*/manifest.json")):
            store = SoftLabelStore.open(manifest.parent)
            if store.dtype == "uint8" and len(store.cases()) < 3:
                shutil.rmtree(manifest.parents[1])  # one teacher of MultiTeacherStored, made anew when needed
                continue
            if store.dtype == "float16":
                store.file("case_2").unlink()
            name = str(manifest.parent.relative_to(toy.preprocessed))
            golden["stores"][name] = {"dtype": store.dtype, "record": {c: store.record(c) for c in store.cases()}}
        shutil.copytree(toy.preprocessed, OUTPUT / "preprocessed" / DATASET)
    (OUTPUT / "golden.json").write_text(json.dumps(golden, indent=1, sort_keys=True))
    with tarfile.open(OUTPUT / "folders.tar.gz", "w:gz") as archive:
        for name in ("preprocessed", "results", "checkpoints"):
            archive.add(OUTPUT / name, name)
            shutil.rmtree(OUTPUT / name)


if __name__ == "__main__":
    main_()
