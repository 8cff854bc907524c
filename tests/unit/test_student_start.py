"""Where students and their twins start: a teacher's reconstruction, its copy, random or loaded weights."""

import copy
import json
from pathlib import Path

import pytest
import torch

from nnunet_kd.teachers.model import load_checkpoint_file
from tests.model_folders import write_validation
from tests.unit.test_online_trainers import labels, make_teacher, trainer_of
from tests.unit.toy_dataset import make_toy, plans_of

STORED, TWIN = "nnUNetTrainerKDEnsemble", "nnUNetTrainerKDTeacher"
TEACHER = "nnUNetTrainerKDTeacher__Teacher__3d_fullres"


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    toy = make_toy(tmp_path, monkeypatch)
    make_teacher(toy, folds=(0, 1))
    return toy


def validate(toy, fold, dice):
    write_validation(toy.results / TEACHER / f"fold_{fold}", dice)


def write_student(toy, features=None, **student):
    """Plans of a student, of fewer channels where ``features`` are given."""
    kd = {"role": "student", "teachers": [{"folder": TEACHER}], "schedule": {"seed": 4, "num_epochs": 2}}
    plans = plans_of(kd | {"student": student}, "Student")
    for configuration in plans["configurations"].values():
        configuration["batch_size"] = 2
        if features:
            configuration["architecture"]["arch_kwargs"]["features_per_stage"] = features
    (toy.preprocessed / "Student.json").write_text(json.dumps(plans))


def started(name, before_start=None):
    """Weights of a trainer before and after it gives the student its initial ones, and what it printed."""
    trainer = trainer_of("Student", name)
    trainer.initialize()
    before = copy.deepcopy(trainer.network.state_dict())
    if before_start:
        before_start(trainer)
    trainer.start_student()
    return before, trainer.network.state_dict(), trainer.log_file


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def weights_of(toy, fold):
    return load_checkpoint_file(toy.results / TEACHER / f"fold_{fold}" / "checkpoint_final.pth")["network_weights"]


def log_of(file):
    return Path(file).read_text()


def test_a_student_with_its_teachers_architecture_starts_as_the_best_of_them(toy):
    validate(toy, 0, 0.6)
    validate(toy, 1, 0.7)
    write_student(toy)
    _, after, log = started(STORED)
    assert equal(after, weights_of(toy, 1))
    assert "fold 1 (validation Dice 0.7000)" in log_of(log)


def test_a_teacher_whose_dice_is_not_defined_is_not_the_best(toy):
    validate(toy, 0, float("nan"))
    validate(toy, 1, 0.1)
    write_student(toy)
    _, after, _ = started(STORED)
    assert equal(after, weights_of(toy, 1))


def test_a_named_teacher_is_inherited_from(toy):
    validate(toy, 1, 0.7)
    write_student(toy, inherit_from=f"{TEACHER}:0")
    _, after, _ = started(STORED)
    assert equal(after, weights_of(toy, 0))


def test_a_teacher_that_has_seen_the_validation_cases_is_warned_of(toy):
    splits = [{"train": ["case_0", "case_1"], "val": ["case_2"]}, {"train": ["case_2"], "val": ["case_0"]}]
    (toy.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for fold, seen in ((0, False), (1, True)):
        write_student(toy, inherit_from=f"{TEACHER}:{fold}", start="inherit")
        _, _, log = started(STORED)
        assert ("inherits from a network that was trained on 1 of 1 validation cases" in log_of(log)) == seen


def test_a_narrower_student_is_reconstructed_and_measured_the_same_every_time(toy):
    write_student(toy, [8, 4, 4])
    before, after, log = started(STORED)
    assert not equal(before, after)
    assert "Dice on " in log_of(log)
    assert "untrained student" in log_of(log)
    _, again, _ = started(STORED)
    assert equal(after, again)


def test_a_student_that_cannot_inherit_starts_at_random_and_says_why(toy):
    write_student(toy, [8, 8, 16])
    before, after, log = started(STORED)
    assert equal(before, after)
    assert "Starting from random weights, the student cannot inherit" in log_of(log)
    assert "has 16 channels, the teacher's has 8" in log_of(log)


def test_other_preprocessing_is_a_reason_too(toy):
    write_student(toy, [4, 4, 4])
    file = toy.results / TEACHER / "plans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [2, 1, 1]
    file.write_text(json.dumps(plans))
    before, after, log = started(STORED)
    assert equal(before, after)
    assert "other preprocessing than the student's (spacing)" in log_of(log)


def test_loaded_weights_stay(toy):
    write_student(toy)

    def load(trainer):
        with torch.no_grad():
            next(trainer.network.parameters()).add_(1)

    before, after, log = started(STORED, load)
    first = next(iter(before))
    assert torch.equal(after[first], before[first] + 1)
    assert "other weights were loaded" in log_of(log)


def test_a_random_start_stays_random(toy):
    write_student(toy, start="random")
    before, after, _ = started(STORED)
    assert equal(before, after)


@pytest.mark.parametrize(("twin_start", "inherits"), [("random", False), ("same", True)])
def test_the_undistilled_twin_inherits_only_when_it_is_told_to(toy, monkeypatch, twin_start, inherits):
    write_student(toy, [8, 4, 4], twin_start=twin_start)
    trainer = trainer_of("Student", TWIN)
    trainer.initialize()
    started = []
    monkeypatch.setattr(type(trainer), "start_student", lambda self: started.append(True))
    trainer.on_train_start()
    assert started == [True] * inherits


def step(trainer, seed):
    generator = torch.Generator().manual_seed(seed)
    target = labels()
    images = torch.randn(2, 1, 16, 16, 16, generator=generator) + target
    return trainer.train_step({"data": images, "target": [target, target[..., ::2, ::2, ::2]]})


def averaging(toy):
    write_student(toy, ema=0.9, start="random")
    trainer = trainer_of("Student", TWIN)
    trainer.on_train_start()
    return trainer


def test_the_average_is_validated_saved_and_left_behind(toy, tmp_path):
    trainer = averaging(toy)
    expected = copy.deepcopy(trainer.network.state_dict())
    for n in range(1, 5):
        step(trainer, n)
        decay = min(0.9, (1 + n) / (10 + n))
        for name, value in trainer.network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    raw = copy.deepcopy(trainer.network.state_dict())

    def is_average(state):
        return all(torch.allclose(state[k], expected[k], atol=1e-6) for k in expected)

    assert not is_average(raw)
    trainer.on_validation_epoch_start()
    assert is_average(trainer.network.state_dict())
    trainer.average.swap()
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    assert equal(raw, trainer.network.state_dict())
    saved = load_checkpoint_file(tmp_path / "c.pth")
    assert is_average(saved["network_weights"])
    assert equal(raw, saved["kd_average"]["weights"])
    trainer.on_train_end()
    assert is_average(trainer.network.state_dict())
    final = load_checkpoint_file(Path(trainer.output_folder) / "checkpoint_final.pth")
    assert is_average(final["network_weights"])


def test_a_resumed_training_with_an_average_goes_on_exactly(toy, tmp_path):
    first = averaging(toy)
    for n in range(3):
        step(first, n)
    file = tmp_path / "checkpoint_latest.pth"
    first.current_epoch = 1
    first.save_checkpoint(str(file))
    second = trainer_of("Student", TWIN)
    second.load_checkpoint(str(file))
    second.on_train_start()
    for n in range(3, 6):
        assert float(step(first, n)["loss"]) == float(step(second, n)["loss"])
    first.average.swap()
    second.average.swap()
    assert equal(first.network.state_dict(), second.network.state_dict())
