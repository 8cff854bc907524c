"""Every way to train a student, on the toy data set: ready for a step in half a second, with weights that stand still.

The initial learning rate is so small that no weight moves: what a step returns can be compared with formulas, with
another step and with another trainer of the same kind. Tests that look at the steps themselves set another one.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from torch import Tensor, nn

from nnunet_kd.cli import main
from tests.unit.test_plan_command import DATASET_JSON
from tests.unit.toy_dataset import Toy, make_toy, plans_of, without_figures

CONFIGURATION = "3d_fullres"
TEACHER_TRAINER = "nnUNetTrainerKDTeacher"
TEACHER = f"{TEACHER_TRAINER}__Teacher__{CONFIGURATION}"
FOLDS = (0, 1, 2)
EPOCHS = 4

NO_FEATURES = {"features": {"importance": {"weight": 0}, "region_affinity": {"weight": 0}}}
ONE_TEACHER = {"teachers": [{"folder": TEACHER, "folds": [0]}]}
TWO_TEACHERS = {"teachers": [{"folder": TEACHER, "folds": [0, 1]}]}
STORED = {"multi_teacher": {"source": "stored"}}
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "twin": (TEACHER_TRAINER, {}),
    "ensemble": ("nnUNetTrainerKDEnsemble", {**ONE_TEACHER, "unlabeled": {"fraction": 0.5}}),
    "feature": ("nnUNetTrainerKDFeature", {**ONE_TEACHER, "features": {"hint": {"weight": 1.0}}}),
    "several": ("nnUNetTrainerKDMultiTeacher", TWO_TEACHERS),
    "several, stored": ("nnUNetTrainerKDMultiTeacher", {**TWO_TEACHERS, **STORED, **NO_FEATURES}),
    "cross teaching": ("nnUNetTrainerKDCrossTeaching", {"cross_teaching": {"teachers": ["same", "same"]}}),
}
"""Name -> (trainer, its part of the "kd" block)."""

COMMON = {
    "schedule": {
        "num_epochs": EPOCHS,
        "iterations_per_epoch": 1,
        "val_iterations_per_epoch": 1,
        "seed": 4,
        "save_every": 1,
    },
    "optimizer": {"initial_lr": 1e-12, "momentum": 0.0, "weight_decay": 0.0},
    "student": {"start": "random"},
    "distillation": {"normalized": False},
}


def merged(*blocks: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries in one; later ones win."""
    result: dict[str, Any] = {}
    for block in blocks:
        for key, value in block.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def write_plans(toy: Toy, name: str, kd: dict[str, Any], batch_size: int = 2, **architecture: Any) -> dict[str, Any]:
    """Plans of a U-Net with three resolutions, so that nnU-Net weighs two outputs (its lowest counts nothing)."""
    plans = plans_of(kd, name)
    configuration = plans["configurations"][CONFIGURATION]
    configuration["batch_size"] = batch_size
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": 4,
        "features_per_stage": [4, 4, 6, 6],
        "kernel_sizes": [[3, 3, 3]] * 4,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * 3],
        "n_conv_per_stage": [1] * 4,
        "n_conv_per_stage_decoder": [1] * 3,
        **architecture,
    }
    (toy.preprocessed / f"{name}.json").write_text(json.dumps(plans))
    return plans


def trainer_of(plans: str, trainer: str) -> Any:
    """A trainer that is not initialized."""
    return get_trainer_from_args("900", CONFIGURATION, 0, trainer, plans, device=torch.device("cpu"))


def make_teacher(toy: Toy, plans: str, folds: tuple[int, ...], **architecture: Any) -> Path:
    """A model folder of networks with random weights, and random statistics where they have batch norm."""
    content = write_plans(toy, plans, {"role": "teacher"}, **architecture)
    for fold in folds:
        torch.manual_seed(fold)
        trainer = trainer_of(plans, TEACHER_TRAINER)
        trainer.on_train_start()  # decides along which axes the network may be mirrored
        for name, tensor in trainer.network.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                tensor.uniform_(0.5, 1.5)
        folder = Path(trainer.output_folder_base)
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return folder


@contextmanager
def world(root: Path) -> Iterator[Toy]:
    """The toy data set with unlabeled cases and three teachers."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_figures(monkeypatch)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # these networks are too small to be shared among threads
        toy = make_toy(root, monkeypatch)
        make_teacher(toy, "Teacher", FOLDS)
        toy.add_unlabeled("new_1", "new_2")
        main(["preprocess-unlabeled", "-d", "900", "-np", "1"])
        yield toy
    torch.set_num_threads(threads)


def start(toy: Toy, training: str, *blocks: dict[str, Any], batch_size: int = 2, **architecture: Any) -> Any:
    """A trainer of :data:`TRAININGS` at the beginning of its first epoch."""
    trainer, block = TRAININGS[training]
    kd = {k: v for k, v in merged(COMMON, block, *blocks).items() if v is not None}
    write_plans(toy, "Student", kd, batch_size, **architecture)
    started = trainer_of("Student", trainer)
    started.on_train_start()
    started.on_train_epoch_start()
    return started


def step(trainer: Any, batch: dict[str, Any], epoch: int | None = None) -> dict[str, Any]:
    """What a step on a copy of the batch returns, as floats and lists; in another epoch where one is given."""
    if epoch is not None:
        trainer.current_epoch = epoch
    return {k: v.tolist() for k, v in trainer.train_step(copy.deepcopy(batch)).items()}


def weights_of(trainer: Any, folder: Path) -> dict[str, dict[str, Tensor]]:
    """All that a training changes, by its checkpoint: the student, the networks beside it, projection heads."""
    file = folder / "checkpoint_of_the_test.pth"
    trainer.save_checkpoint(str(file))
    saved = torch.load(file, weights_only=False)
    found = {"student": saved["network_weights"]}
    found |= {f"peer {i}": p["weights"] for i, p in enumerate(saved.get("kd_cross_teaching", {}).get("peers", ()))}
    if "kd_heads" in saved:
        found["heads"] = {f"{i}.{k}": v for i, w in enumerate(saved["kd_heads"]["weights"]) for k, v in w.items()}
    # nnU-Net's networks have layers under two names
    return {name: dict({v.data_ptr(): (k, v) for k, v in w.items()}.values()) for name, w in found.items()}


def distances(before: dict[str, dict[str, Tensor]], after: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    """Euclidean length of the way that each network went."""
    return {
        name: float(
            torch.stack([(after[name][k] - w).double().square().sum() for k, w in weights.items()]).sum().sqrt()
        )
        for name, weights in before.items()
    }


def predictor_of(folder: Path, fold: int = 0, mirroring: bool = False, step_size: float = 0.5) -> nnUNetPredictor:
    """nnU-Net's own predictor of a model folder, its network in evaluation mode."""
    predictor = nnUNetPredictor(step_size, use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (fold,))
    predictor.network.eval()
    return predictor


def network_of(folder: Path, fold: int = 0) -> nn.Module:
    """A network as nnU-Net itself loads it for prediction."""
    return predictor_of(folder, fold).network


def random_batch(cases: int, seed: int = 1) -> dict[str, Any]:
    """Random images (B, 1, 16, 16, 16) with a box in a box as reference, for three outputs."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(cases, 1, 16, 16, 16)
    for i in range(cases):
        target[i, :, 4:12, 4:12, 3 * i % 9 : 3 * i % 9 + 7] = 1
        target[i, :, 6:10, 6:10, 3 * i % 9 : 3 * i % 9 + 3] = 2
    images = torch.randn(cases, 1, 16, 16, 16, generator=generator) / 4 + target  # so that networks see the boxes
    return {"data": images, "target": [target[..., ::s, ::s, ::s] for s in (1, 2, 4)], "keys": list(np.arange(cases))}
