"""A teacher whose weights or logits are not finite is refused with its fold, wherever it would teach."""

from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.inference.stage import load_stage
from nnunet_kd.inheritance.start import best_member, copy_member
from nnunet_kd.softlabels.export import Exporter
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.loading import build_network
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teaching.frozen_teacher import load_frozen_teacher
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_image_readers import GEOMETRIES, ensemble_of, plans, raw, student
from tests.unit.test_online_trainers import FEATURE, TEACHER, batch_of, labels, make_teacher, trainer_of, write_student
from tests.unit.test_plan_command import DATASET_JSON
from tests.unit.toy_dataset import make_toy

CPU = torch.device("cpu")


@pytest.fixture(name="ensemble")
def _ensemble(tmp_path) -> TeachingEnsemble:
    """Two folds; fold 1 is good, fold 0 whatever a test makes of it."""
    space = student(raw(tmp_path, ".nii.gz", GEOMETRIES["LPS"]), "SimpleITKIO", "3d_fullres")
    ensemble = ensemble_of(space, "SimpleITKIO", "3d_fullres")
    model = TeacherModel(ensemble.models[0].folder, "3d_fullres", (0, 1))
    for fold in (0, 1):
        write_checkpoint(model, fold, 1.0)
    return TeachingEnsemble(ensemble.kd, space, (model,), None)


def write_checkpoint(model: TeacherModel, fold: int, scale: float) -> None:
    torch.manual_seed(fold)
    network = build_network(PlansManager(plans("SimpleITKIO")), "3d_fullres", DATASET_JSON, "nnUNetTrainer")
    weights = network.state_dict()
    weights["decoder.seg_layers.1.weight"] *= scale
    model.checkpoint_file(fold).parent.mkdir(exist_ok=True)
    torch.save({"network_weights": weights, "trainer_name": "nnUNetTrainer"}, model.checkpoint_file(fold))


def export(ensemble: TeachingEnsemble) -> None:
    exporter = Exporter(ensemble, CPU)
    exporter.predict(*exporter._load("case"))


def test_weights_that_are_not_finite_are_refused_by_every_user_of_them(ensemble):
    (model,) = ensemble.models
    export(ensemble)
    write_checkpoint(model, 0, float("nan"))
    network = build_network(model.plans_manager, "3d_fullres", DATASET_JSON, "nnUNetTrainer")
    for use in (
        lambda: export(ensemble),
        lambda: load_frozen_teacher(model, 0, ensemble.student, network, None, CPU),
        lambda: load_stage(model, CPU, 0.5, False, False),
    ):
        with pytest.raises(UserError, match=r"fold_0/checkpoint_final\.pth: its weights decoder.*diverged.*fold 0"):
            use()


@pytest.mark.parametrize("scale", [1e38, 1e6], ids=["NaN", "more than 16 bits hold"])
def test_logits_that_are_not_finite_are_refused_with_fold_and_case(ensemble, scale):
    write_checkpoint(ensemble.models[0], 0, scale)
    with pytest.raises(UserError, match="3d_fullres fold 0: its logits for case case are not finite"):
        export(ensemble)


def test_a_diverged_teacher_is_neither_copied_nor_inherited_from(tmp_path, monkeypatch):
    toy = make_toy(tmp_path, monkeypatch)
    make_teacher(toy)
    file = toy.results / TEACHER / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"]["decoder.seg_layers.0.bias"][0] = float("inf")
    torch.save(checkpoint, file)
    write_student(toy, student={"start": "inherit"}, role="student")
    trainer = trainer_of("Student", "nnUNetTrainerKDEnsemble")
    trainer.initialize()
    trainer.start_student()
    assert "the student cannot inherit:" in Path(trainer.log_file).read_text()
    assert "this training diverged" in Path(trainer.log_file).read_text()
    assert all(p.isfinite().all() for p in trainer.network.parameters())
    member = best_member(trainer.teaching_ensemble().models)
    with pytest.raises(UserError, match="diverged"):
        copy_member(trainer.network, type(member)(member.model, member.fold, 0.5))


def test_a_teacher_in_memory_stops_the_training_with_one_sentence(tmp_path, monkeypatch, capsys):
    toy = make_toy(tmp_path, monkeypatch)
    make_teacher(toy)
    write_student(toy)
    trainer = trainer_of("Student", FEATURE)
    trainer.initialize()
    trainer.teaching.start(trainer.bare_network, None, 0)
    batch = batch_of(labels())
    trainer.train_step(batch)
    with torch.no_grad():
        trainer.teaching.teachers[0].network.decoder.seg_layers[-1].bias[1] = float("inf")
    with pytest.raises(SystemExit):
        trainer.train_step(batch)
    message = capsys.readouterr().err
    assert "nnunet_kd: teacher nnUNetTrainerKDTeacher__Teacher__3d_fullres fold 0: its logits" in message
