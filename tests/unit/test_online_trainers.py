"""Trainers with teachers in memory on tiny data: terms, regions, weights, resuming, what is refused."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_kd.losses.feature_term import FEATURE_TERMS as REGISTRY
from nnunet_kd.teachers.model import load_checkpoint_file
from tests.unit.test_plan_command import DATASET_JSON
from tests.unit.toy_dataset import make_toy, plans_of

FEATURE, MULTI = "nnUNetTrainerKDFeature", "nnUNetTrainerKDMultiTeacher"
TEACHER = "nnUNetTrainerKDTeacher__Teacher__3d_fullres"
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]}
FEATURE_TERMS = tuple(REGISTRY.terms)
ALL_TERMS = {name: {"weight": 0.5} for name in FEATURE_TERMS}


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    return make_toy(tmp_path, monkeypatch)


def trainer_of(plans, name, configuration="3d_fullres"):
    return get_trainer_from_args("900", configuration, 0, name, plans, device=torch.device("cpu"))


def make_teacher(toy, folds=(0,), dataset_json=DATASET_JSON, configuration="3d_fullres"):
    """A model folder with one network of random weights per fold."""
    toy.write_plans({"role": "teacher"}, "Teacher")
    for fold in folds:
        torch.manual_seed(fold)
        trainer = trainer_of("Teacher", "nnUNetTrainerKDTeacher", configuration)
        trainer.initialize()
        folder = Path(trainer.output_folder_base)
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        trainer.save_checkpoint(str(folder / f"fold_{fold}" / "checkpoint_final.pth"))
    (folder / "plans.json").write_text(json.dumps(plans_of({"role": "teacher"}, "Teacher")))
    (folder / "dataset.json").write_text(json.dumps(dataset_json))


def write_student(toy, name="Student", folds=(0,), batch_size=2, **block):
    kd = {"teachers": [{"folder": TEACHER, "folds": list(folds)}], "schedule": {"seed": 4, "num_epochs": 2}}
    toy.write_plans({**kd, **block}, name, batch_size)


def ready(plans, name):
    """A trainer with its teachers, without data."""
    trainer = trainer_of(plans, name)
    trainer.initialize()
    trainer.teaching.start(trainer.bare_network, trainer._resumed, trainer.current_epoch)
    return trainer


def batch_of(target):
    """Random images with one target for each output."""
    generator = torch.Generator().manual_seed(1)
    return {
        "data": torch.randn(2, 1, 16, 16, 16, generator=generator),
        "target": [target, target[..., ::2, ::2, ::2]],
    }


def labels():
    target = torch.zeros(2, 1, 16, 16, 16)
    target[:, :, 4:12, 4:12, 4:12] = 1
    target[:, :, 6:10, 6:10, 6:10] = 2
    return target


def test_a_step_moves_student_and_heads_and_nothing_of_the_teacher(toy):
    make_teacher(toy)
    write_student(toy, features=ALL_TERMS, hard_loss={"name": "dice_focal"})
    trainer = ready("Student", FEATURE)
    (teacher,) = trainer.teaching.teachers
    parts = (trainer.network, teacher.network, trainer.teaching.feature_losses[0].heads)
    before = [copy.deepcopy(m.state_dict()) for m in parts]
    result = trainer.train_step(batch_of(labels()))
    expected = {f"kd_{t}" for t in ("hard", "soft_ce", "soft_dice", *FEATURE_TERMS)}
    assert {k for k in result if k.startswith("kd_")} == expected | {"kd_teacher_weights"}
    assert all(np.isfinite(v).all() for v in result.values())
    total = sum(float(result[k]) for k in expected)
    assert float(result["loss"]) == pytest.approx(total, rel=1e-5)
    after = [m.state_dict() for m in parts]
    moved = [any(not torch.equal(a[k], b[k]) for k in a) for a, b in zip(before, after, strict=True)]
    assert moved == [True, False, True]
    assert all(k.startswith(("encoder.", "decoder.")) for k in trainer.network.state_dict())
    mine = {id(p) for g in trainer.optimizer.param_groups for p in g["params"]}
    assert mine == {id(p) for p in trainer.network.parameters()}


def test_a_resumed_training_goes_on_exactly(toy, tmp_path):
    make_teacher(toy)
    write_student(toy, features={"hint": {"weight": 1}, "channel_wise": {"weight": 1}}, optimizer={"name": "adam"})
    first = ready("Student", FEATURE)
    batch = batch_of(labels())
    for _ in range(2):
        first.train_step(copy.deepcopy(batch))
    file = tmp_path / "checkpoint_latest.pth"
    first.save_checkpoint(str(file))
    content = load_checkpoint_file(file)
    assert content["trainer_name"] == "nnUNetTrainer"
    assert set(content["network_weights"]) == set(first.network.state_dict())
    assert set(content["kd_heads"]) == {"weights", "optimizer"}

    second = trainer_of("Student", FEATURE)
    second.initialize()
    second.load_checkpoint(str(file))
    second.teaching.start(second.bare_network, second._resumed, second.current_epoch)
    second.current_epoch = first.current_epoch
    for _ in range(2):  # the second of these also tells the optimizers' states
        ours, theirs = (t.train_step(copy.deepcopy(batch)) for t in (first, second))
        assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}
    for a, b in zip(
        first.teaching.feature_losses[0].parameters(), second.teaching.feature_losses[0].parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_heads_of_other_layers_are_refused(toy, tmp_path, capsys):
    make_teacher(toy)
    write_student(toy, features={"hint": {"weight": 1}})
    ready("Student", FEATURE).save_checkpoint(str(tmp_path / "c.pth"))
    write_student(toy, features={"hint": {"weight": 1}, "number_of_pairs": 1})
    trainer = trainer_of("Student", FEATURE)
    trainer.load_checkpoint(str(tmp_path / "c.pth"))
    with pytest.raises(SystemExit) as stop:
        trainer.on_train_start()
    assert stop.value.code == 2
    assert "do not fit kd.features and kd.teachers" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "mixed"), [(FEATURE, None), (MULTI, None), (FEATURE, "mixup"), (MULTI, "cutmix")])
def test_regions_and_an_ignore_label(toy, name, mixed):
    for folder in (toy.raw, toy.preprocessed):
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON | REGIONS))
    make_teacher(toy, dataset_json=DATASET_JSON | REGIONS)
    augmentation = {mixed: {"probability": 1}} if mixed else {}
    write_student(
        toy,
        features=ALL_TERMS,
        hard_loss={"name": "dice_lovasz"},
        multi_teacher={"weights": "inverse"},
        augmentation=augmentation,
    )
    trainer = ready("Student", name)
    where = labels()
    ignored = torch.zeros_like(where, dtype=torch.bool)
    ignored[:, :, :3] = True
    target = torch.cat((where > 0, where > 1, ignored), 1)
    result = trainer.train_step(batch_of(target))
    assert all(np.isfinite(v).all() for v in result.values())
    assert min(float(result[f"kd_{t}"]) for t in FEATURE_TERMS) > 0


def test_weights_of_two_teachers_follow_their_dice_losses(toy):
    make_teacher(toy, folds=(0, 1))
    weights = {}
    for kind in ("uniform", "paper", "inverse"):
        write_student(toy, kind, (0, 1), multi_teacher={"weights": kind})
        trainer = ready(kind, MULTI)
        assert len(trainer.teaching.teachers) == 2
        weights[kind] = trainer.train_step(batch_of(labels()))["kd_teacher_weights"]
        assert weights[kind].sum() == pytest.approx(1)
    assert weights["uniform"].tolist() == [0.5, 0.5]
    better = int(weights["inverse"].argmax())
    assert weights["paper"][better] < 0.5 < weights["inverse"][better]


def test_fixed_weights_must_be_as_many_as_teachers(toy, capsys):
    make_teacher(toy, folds=(0, 1))
    write_student(toy, folds=(0, 1), multi_teacher={"weights": "fixed", "fixed_weights": [1, 2, 3]})
    with pytest.raises(SystemExit):
        trainer_of("Student", MULTI).on_train_start()
    assert "has 3 numbers for 2 teacher networks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"ensemble": {"from_folder": "maps"}}, "kd.ensemble.from_folder"),
        ({"ensemble": {"membership": "out_of_fold"}}, "kd.ensemble.membership"),
        (
            {"hard_loss": {"weight": 0}, "distillation": {"soft_ce": {"weight": 0}, "soft_dice": {"weight": 0}}},
            "features alone teach no segmentation",
        ),
    ],
)
def test_settings_that_it_cannot_follow_are_refused(toy, capsys, block, sentence):
    write_student(toy, **block)
    with pytest.raises(SystemExit) as stop:
        trainer_of("Student", FEATURE).initialize()
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_comparing_the_images_of_a_batch_needs_two(toy, capsys):
    write_student(toy, features={"similarity": {"weight": 1}})
    file = toy.preprocessed / "Student.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["batch_size"] = 1
    file.write_text(json.dumps(plans))
    with pytest.raises(SystemExit):
        trainer_of("Student", FEATURE).initialize()
    assert "kd.features.similarity.weight" in capsys.readouterr().err
