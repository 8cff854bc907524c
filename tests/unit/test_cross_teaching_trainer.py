"""nnUNetTrainerKDCrossTeaching on tiny data: gradients, steps, checkpoints, resuming, exported teachers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args

import nnunet_kd.trainers  # noqa: F401
from nnunet_kd.cli import main
from nnunet_kd.planning.recipes import load_recipe
from nnunet_kd.teachers.model import load_checkpoint_file
from tests.unit.toy_dataset import make_toy, run_epoch, without_figures

TRAINER = "nnUNetTrainerKDCrossTeaching"


def write_plans(toy, name="Cross", epochs=2, **cross_teaching):
    import json

    schedule = {
        "num_epochs": epochs,
        "iterations_per_epoch": 2,
        "val_iterations_per_epoch": 1,
        "seed": 4,
        "save_every": 1,
    }
    block = {"teachers": ["Teacher", "same"], **cross_teaching}
    toy.write_plans({"schedule": schedule, "cross_teaching": block}, name)
    toy.write_plans(None, "Teacher")
    file = toy.preprocessed / "Teacher.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [12, 12, 12]
    file.write_text(json.dumps(plans))


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    without_figures(monkeypatch)
    toy = make_toy(tmp_path, monkeypatch)
    toy.add_unlabeled("new_1", "new_2")
    main(["preprocess-unlabeled", "-d", "900", "-np", "1"])
    write_plans(toy)
    return toy


def trainer_of(plans="Cross", resume: Path | None = None):
    trainer = get_trainer_from_args("900", "3d_fullres", 0, TRAINER, plans, resume is not None, torch.device("cpu"))
    if resume is not None:
        trainer.load_checkpoint(str(resume))
    return trainer


def started(plans="Cross"):
    trainer = trainer_of(plans)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def networks_of(trainer):
    return {"student": trainer.network, **{p.name: p.network for p in trainer.teaching.peers}}


def test_a_step_moves_every_network_and_each_term_only_those_that_learn_from_it(toy):
    trainer = started()
    assert list(networks_of(trainer)) == ["student", "teacher1", "teacher2"]
    sizes = [sum(p.numel() for p in n.parameters()) for n in networks_of(trainer).values()]
    assert sizes[0] == sizes[2] < sizes[1]
    batch = next(trainer.dataloader_train)
    assert [k.startswith("new_") for k in batch["keys"]] == [False, False, True, True]
    learners = {
        "kd_hard": "student", "kd_hard_teacher1": "teacher1", "kd_hard_teacher2": "teacher2",
        "kd_distillation": "student", "kd_distillation_unlabeled": "student", "kd_pseudo_supervision": "student",
        "kd_cross_teaching": "teacher1 teacher2",
    }  # fmt: skip
    for term, who in learners.items():
        for network in networks_of(trainer).values():
            network.zero_grad()
        terms = trainer.training_losses(batch["data"], batch["target"])[1]
        assert terms.keys() == learners.keys()
        terms[term].backward()
        for name, network in networks_of(trainer).items():
            moved = any(p.grad is not None and p.grad.any() for p in network.parameters())
            assert moved == (name in who.split()), f"{name} in {term}"

    before = {n: [p.clone() for p in net.parameters() if p.requires_grad] for n, net in networks_of(trainer).items()}
    result = trainer.train_step(batch)
    assert all(np.isfinite(v).all() for v in result.values())
    assert result["loss"] == pytest.approx(sum(float(v) for k, v in result.items() if k != "loss"), rel=1e-5)
    for name, network in networks_of(trainer).items():
        after = [p for p in network.parameters() if p.requires_grad]
        assert all(not torch.equal(a, b) for a, b in zip(after, before[name], strict=True) if a.grad.any()), name


def test_the_segmentation_of_unlabeled_cases_has_no_effect(toy):
    trainer = started()
    batch = next(trainer.dataloader_train)
    target = batch["target"].clone()
    target[2:] = 1
    with torch.no_grad():
        losses = [trainer.training_losses(batch["data"], t)[0] for t in (batch["target"], target)]
    assert losses[0] == losses[1]


def test_training_resumes_exactly_and_ends_with_a_stock_student_and_exported_teachers(toy):
    write_plans(toy, "Whole")
    whole = trainer_of("Whole")
    whole.run_training()
    folder = Path(whole.output_folder)
    assert not (folder / "checkpoint_latest.pth").exists()
    final = load_checkpoint_file(folder / "checkpoint_final.pth")
    assert "kd_cross_teaching" not in final, "the last checkpoint holds the student alone"
    assert final["trainer_name"] == "nnUNetTrainer"
    assert len(final["optimizer_state"]["state"]) <= len(list(whole.network.parameters()))

    log = final["logging"]
    for curve in ("kd_hard", "kd_hard_teacher1", "kd_cross_teaching", "kd_dice_teacher1", "kd_dice_teacher2"):
        assert len(log[curve]) == 2, curve
        assert np.isfinite(log[curve]).all()

    part = trainer_of("Cross")
    part.on_train_start()
    run_epoch(part)
    latest = Path(part.output_folder) / "checkpoint_latest.pth"
    assert load_checkpoint_file(latest)["kd_cross_teaching"]["peers"][0].keys() == {"weights", "optimizer"}
    resumed = trainer_of("Cross", resume=latest)
    assert resumed.current_epoch == 1
    resumed.run_training()
    again = load_checkpoint_file(Path(resumed.output_folder) / "checkpoint_final.pth")
    for key, value in final["network_weights"].items():
        assert torch.equal(value, again["network_weights"][key]), f"{key}: resumed training differs"
    assert again["logging"]["kd_cross_teaching"] == log["kd_cross_teaching"]

    for name, features in (("teacher1", 12), ("teacher2", 8)):
        folders = [toy.results / f"{TRAINER}__{plans}_{name}__3d_fullres" for plans in ("Whole", "Cross")]
        weights = [load_checkpoint_file(f / "fold_0" / "checkpoint_final.pth")["network_weights"] for f in folders]
        for key, value in weights[0].items():
            assert torch.equal(value, weights[1][key]), f"{name} {key}"
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folders[0]), (0,))
        assert predictor.allowed_mirroring_axes == (0, 1, 2)
        assert predictor.configuration_manager.network_arch_init_kwargs["features_per_stage"][0] == features
        image = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)
        assert predictor.predict_single_npy_array(image, {"spacing": [1.0, 1.0, 1.0]}).shape == (20, 20, 20)

    write_plans(toy, "Whole", epochs=3)
    longer = trainer_of("Whole", resume=folder / "checkpoint_final.pth")
    longer.run_training()
    assert len(load_checkpoint_file(folder / "checkpoint_final.pth")["logging"]["kd_hard"]) == 3


@pytest.mark.parametrize(
    ("block", "peers", "unlabeled"),
    [
        ({"teachers": [], "unlabeled": {"weight": 0.0}}, [], False),
        ({"teachers": ["Teacher"], "unlabeled": {"weight": 0.0}}, ["teacher1"], False),
        ({"teachers": ["same"], "between": "students", "deep_supervision": True}, ["student2"], True),
    ],
)
def test_other_rows_of_table_3_train(toy, block, peers, unlabeled):
    write_plans(toy, "Row", **block)
    trainer = started("Row")
    assert [p.name for p in trainer.teaching.peers] == peers
    batch = next(trainer.dataloader_train)
    assert any(k.startswith("new_") for k in batch["keys"]) == unlabeled
    assert np.isfinite(trainer.train_step(batch)["loss"])
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"teachers": ["Absent"]}, "Absent.json: no such file"),
        ({"teachers": []}, "nothing is learned from unlabeled cases"),
    ],
)
def test_what_cannot_work_is_one_sentence(toy, capsys, block, sentence):
    write_plans(toy, "Wrong", **block)
    with pytest.raises(SystemExit) as stop:
        started("Wrong")
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_without_unlabeled_cases_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    toy = make_toy(tmp_path, monkeypatch)
    write_plans(toy)
    with pytest.raises(SystemExit):
        started()
    assert "make them with nnUNetv2_kd preprocess-unlabeled" in capsys.readouterr().err


def test_validation_alone_needs_no_teachers(toy):
    trainer = started()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    (toy.preprocessed / "Teacher.json").unlink()
    alone = trainer_of(resume=Path(trainer.output_folder) / "checkpoint_final.pth")
    assert alone.teaching.peers == ()


def test_the_recipe_is_chois():
    kd = load_recipe("choi2022").kd
    assert kd["cross_teaching"]["distillation"]["weight"] == 10
    assert kd["cross_teaching"]["unlabeled"]["weight"] == 0.1
    assert kd["hard_loss"]["name"] == "dice_focal"
    assert kd["optimizer"]["momentum"] == 0.99
