"""``--c``: a training that was interrupted ends with exactly the weights of one that was not, for every trainer.

nnUNetTrainerKDCrossTeaching has the same test in test_cross_teaching_trainer.py.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_kd.cli import main
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.utilities.random_state import random_state, seed_generators, set_random_state
from tests.unit.test_online_trainers import TEACHER, make_teacher
from tests.unit.toy_dataset import make_toy, run_epoch, without_figures

SCHEDULE = {"num_epochs": 3, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "save_every": 1, "seed": 5}
MIXED = {"augmentation": {"transforms": "DA5", "mixup": {"probability": 0.5}, "cutmix": {"probability": 0.5}}}
TRAININGS = {
    "nnUNetTrainerKDTeacher": {"optimizer": {"name": "adam", "lr_schedule": "cosine"}},
    "nnUNetTrainerKDEnsemble": {"unlabeled": {"fraction": 0.5}, "student": {"ema": 0.5}, **MIXED},
    "nnUNetTrainerKDFeature": {"features": {"hint": {"weight": 1.0}}},
    "nnUNetTrainerKDMultiTeacher": {"multi_teacher": {"weights": "inverse"}, **MIXED},
    "nnUNetTrainerKDMultiTeacher, stored": {
        "multi_teacher": {"source": "stored"},
        "features": {"importance": {"weight": 0.0}, "region_affinity": {"weight": 0.0}},
    },
}


@pytest.fixture(scope="module", name="toy")
def _toy(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        without_figures(monkeypatch)
        toy = make_toy(tmp_path_factory.mktemp("toy"), monkeypatch)
        make_teacher(toy, folds=(0, 1))
        toy.add_unlabeled("new_1", "new_2")
        main(["preprocess-unlabeled", "-d", "900", "-np", "1"])
        yield toy


def trainer_of(name, resume=None):
    trainer = get_trainer_from_args("900", "3d_fullres", 0, name, "Student", resume is not None, torch.device("cpu"))
    if resume is not None:
        trainer.load_checkpoint(str(resume))
    trainer.on_train_start()
    return trainer


@pytest.mark.parametrize("training", TRAININGS)
def test_an_interrupted_training_ends_as_one_that_was_not(toy, tmp_path, training):
    name = training.split(",")[0]
    folds = [0, 1] if "Multi" in name else [0]
    block = {"teachers": [{"folder": TEACHER, "folds": folds}], "schedule": SCHEDULE}
    toy.write_plans({**block, **TRAININGS[training]}, "Student", batch_size=4)
    whole = trainer_of(name)
    run_epoch(whole)
    latest = tmp_path / "checkpoint_latest.pth"
    shutil.copy(Path(whole.output_folder) / latest.name, latest)
    run_epoch(whole)

    torch.rand(7), np.random.rand(7)  # what another process has drawn before
    resumed = trainer_of(name, latest)
    assert resumed.current_epoch == 1
    run_epoch(resumed)
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), f"{key}: resumed training differs"
    log, again = (t.logger.local_logger.my_fantastic_logging for t in (whole, resumed))
    for curve in ("train_losses", "val_losses", "mean_fg_dice"):
        assert log[curve] == again[curve], curve
    if whole.average is not None:
        whole.average.swap()
        resumed.average.swap()
        assert all(torch.equal(v, resumed.network.state_dict()[k]) for k, v in whole.network.state_dict().items())


def test_a_checkpoint_without_random_numbers_does_not_replay_the_first_batches(toy, tmp_path):
    toy.write_plans({"schedule": SCHEDULE}, "Student")
    first = trainer_of("nnUNetTrainerKDTeacher")
    first.on_train_epoch_start()
    batches = [next(first.dataloader_train)["data"] for _ in range(2)]
    file = tmp_path / "checkpoint_latest.pth"
    first.save_checkpoint(str(file))
    older = load_checkpoint_file(file)
    del older["kd_random"]
    torch.save(older, file)
    resumed = trainer_of("nnUNetTrainerKDTeacher", file)
    resumed.on_train_epoch_start()
    anew = next(resumed.dataloader_train)["data"]
    assert not any(torch.equal(anew, b) for b in batches)


def draw():
    return np.random.rand(), torch.rand(1).item()


def test_streams_of_one_seed_are_independent_and_repeatable():
    before = random_state()
    drawn = {}
    for stream in ((), (1,), (0, 1), (1, 0)):
        seed_generators(3, *stream)
        drawn[stream] = draw()
        seed_generators(3, *stream)
        assert draw() == drawn[stream]
    assert len(set(drawn.values())) == 4
    set_random_state(before)


def test_a_disk_that_is_full_ends_a_training_with_one_sentence_and_keeps_the_last_checkpoint(toy, monkeypatch, capsys):
    toy.write_plans({"teachers": [{"folder": TEACHER, "folds": [0]}], "schedule": SCHEDULE}, "Full")
    trainer = get_trainer_from_args(
        "900", "3d_fullres", 0, "nnUNetTrainerKDTeacher", "Full", device=torch.device("cpu")
    )
    latest, save = Path(trainer.output_folder) / "checkpoint_latest.pth", torch.save

    def save_once(content, file):
        if trainer.current_epoch > 0:
            Path(file).write_bytes(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")  # as torch says it
        save(content, file)

    monkeypatch.setattr(torch, "save", save_once)
    with pytest.raises(SystemExit) as stop:
        trainer.run_training()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "checkpoint_latest.pth: cannot be written" in said
    assert "free some space" in said
    assert load_checkpoint_file(latest)["current_epoch"] == 1
    assert not list(latest.parent.glob(".*"))


def test_a_results_folder_that_cannot_be_written_to_is_one_sentence_before_nnunet_makes_folders_in_it(
    toy, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "file" / "results"))
    with pytest.raises(SystemExit) as stop:
        get_trainer_from_args("900", "3d_fullres", 0, "nnUNetTrainerKDTeacher", "Teacher", device=torch.device("cpu"))
    assert stop.value.code == 2
    assert f"{tmp_path / 'file'}: not a folder that can be written to; mend its permissions" in capsys.readouterr().err
