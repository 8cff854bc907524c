"""Teachers in memory: what they must share with the student, and what the student sees of them."""

from functools import partial
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.config import Distillation, Features, KDConfig
from nnunet_kd.losses import DistillationLoss
from nnunet_kd.losses.kl import KLTerm
from nnunet_kd.losses.peer_term import probabilities_of
from nnunet_kd.losses.soft_targets import SoftTargets, log_mixture
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.fitness import check_same_input, patch_note
from nnunet_kd.teachers.loading import build_network
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.teaching.frozen_teacher import load_frozen_teacher
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.schema import from_dict
from tests.unit.test_plan_command import DATASET_JSON, make_plans, write_json

CPU = torch.device("cpu")
NORMALISATION = {
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"order": 3},
}


def plans_with(**changes) -> dict:
    plans = make_plans()
    plans["image_reader_writer"] = "SimpleITKIO"
    for configuration in ("2d", "3d_fullres"):
        plans["configurations"][configuration] |= NORMALISATION | changes
    return plans


def teacher(folder: Path, plans: dict, configuration: str = "2d") -> TeacherModel:
    """A model folder with a checkpoint of random weights."""
    model = TeacherModel(folder / f"T__P__{configuration}", configuration, (0,))
    write_json(model.folder / "plans.json", plans)
    write_json(model.folder / "dataset.json", DATASET_JSON)
    network = build_network(PlansManager(plans), configuration, DATASET_JSON, "nnUNetTrainer")
    model.checkpoint_file(0).parent.mkdir(parents=True)
    content = {"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer"}
    torch.save(content, model.checkpoint_file(0))
    return model


def student_space(configuration: str = "2d") -> StudentSpace:
    return StudentSpace(PlansManager(plans_with()), configuration, DATASET_JSON, Path("unused"), None)


def student_network(configuration: str = "2d") -> torch.nn.Module:
    return build_network(PlansManager(plans_with()), configuration, DATASET_JSON, "nnUNetTrainer")


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_teacher_gives_logits_and_features_without_gradients(tmp_path, configuration):
    model = teacher(tmp_path, plans_with(), configuration)
    student = student_network(configuration)
    loaded = load_frozen_teacher(model, 0, student_space(configuration), student, Features(), CPU)
    assert [(p.student, p.teacher) for p in loaded.pairs] == [("encoder.0", "encoder.0"), ("decoder.1", "decoder.1")]
    assert loaded.channels == ((16, 16), (16, 16))
    images = torch.randn(2, 1, *[16] * (2 if configuration == "2d" else 3), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, recorded = loaded.predict(images)
    assert logits.dtype == torch.float32
    assert logits.shape == (2, 3, *images.shape[2:])
    assert [f.dtype for f in recorded] == [torch.bfloat16] * 2, "as the student's, in the same autocast"
    assert not any(t.requires_grad for t in (logits, *recorded))
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert not loaded.network.training
    assert "PlainConvUNet" not in repr(loaded), "nnU-Net writes attributes of the trainer into debug.json"


def test_without_feature_terms_there_are_no_pairs(tmp_path):
    loaded = load_frozen_teacher(teacher(tmp_path, plans_with()), 0, student_space(), student_network(), None, CPU)
    assert loaded.pairs == ()
    assert loaded.predict(torch.zeros(1, 1, 16, 16))[1] == []


def test_pairs_may_be_named_and_need_not_be_of_equal_size(tmp_path):
    features = from_dict(Features, {"pairs": [{"student": "bottleneck", "teacher": "encoder.1"}]}, "kd.features")
    loaded = load_frozen_teacher(teacher(tmp_path, plans_with()), 0, student_space(), student_network(), features, CPU)
    assert loaded.channels == ((64, 32),)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"normalization_schemes": ["NoNormalization"]}, "normalization_schemes"),
        ({"spacing": [2.0, 2.0]}, "spacing"),
        ({"use_mask_for_norm": [True]}, "use_mask_for_norm"),
    ],
)
def test_a_teacher_of_other_preprocessing_is_refused_by_name_of_the_difference(tmp_path, changes, named):
    model = teacher(tmp_path, plans_with(**changes))
    with pytest.raises(UserError, match=rf"other preprocessing.*\({named}\).*nnUNetTrainerKDEnsemble"):
        check_same_input(student_space(), model)


def test_a_2d_teacher_is_refused_for_a_3d_student(tmp_path):
    with pytest.raises(UserError, match="spacing"):
        check_same_input(student_space("3d_fullres"), teacher(tmp_path, plans_with()))


def test_another_patch_size_is_said_and_one_that_does_not_fit_refused(tmp_path):
    model = teacher(tmp_path, plans_with(patch_size=[32, 16]))
    assert "trained on patches of [32, 16] voxels and sees [16, 16]" in patch_note(student_space(), model)
    assert patch_note(student_space(), teacher(tmp_path / "same", plans_with())) is None
    odd = StudentSpace(PlansManager(plans_with(patch_size=[18, 16])), "2d", DATASET_JSON, Path("unused"), None)
    with pytest.raises(UserError, match=r"cannot take the student's patch of \[18, 16\] voxels"):
        load_frozen_teacher(model, 0, odd, student_network(), None, CPU)


def test_every_fold_of_every_folder_is_a_network():
    models = [TeacherModel(Path("a"), "2d", (0, 2)), TeacherModel(Path("b"), "2d", ("all",))]
    members = TeachingEnsemble(KDConfig(), student_space(), tuple(models), None).members()
    networks = [(model.folder.name, model.folds) for member in members for model in member.models]
    assert networks == [("a", (0,)), ("a", (2,)), ("b", ("all",))]


def tempered(logits, weights, sigmoid, temperature):
    return log_mixture(logits, weights, temperature, sigmoid)


@pytest.mark.parametrize("spatial", [(8, 12), (4, 8, 12)], ids=["2d", "3d"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_student_equal_to_a_sharp_teacher_has_nothing_to_learn_at_any_temperature(spatial, sigmoid):
    logits = 40 * torch.randn(2, 3, *spatial, generator=torch.Generator().manual_seed(0))
    one = torch.ones(1)
    targets = SoftTargets(
        probabilities_of(logits, sigmoid),
        log_tempered=lambda temperature: log_mixture([logits], one, temperature, sigmoid),
    )
    for temperature in (1.0, 4.0):
        config = Distillation(kl=KLTerm(weight=1.0, temperature=temperature))
        value = DistillationLoss(config, sigmoid, (1.0,))(logits, targets, 0.0)["kl"]
        assert value.item() == pytest.approx(0, abs=1e-5)
        stored = DistillationLoss(config, sigmoid, (1.0,))(logits, SoftTargets(targets.probabilities), 0.0)["kl"]
        assert stored.item() > 0.01, "probabilities alone have lost how sharp the teacher is"


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_tempered_mean_of_teachers_is_the_mean_of_their_tempered_probabilities(sigmoid):
    logits = [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1)]
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    mixed = log_mixture(logits, weights, 3.0, sigmoid).exp()
    first, second = (probabilities_of(z / 3, sigmoid) for z in logits)
    expected = 0.25 * first + 0.75 * second
    torch.testing.assert_close(mixed[..., 0] if sigmoid else mixed, expected)
    targets = SoftTargets(expected, log_tempered=partial(tempered, logits, weights, sigmoid))
    lower = targets.resized((4, 4), "mean").log_tempered(3.0).exp()
    torch.testing.assert_close(lower[..., 0] if sigmoid else lower, torch.nn.functional.avg_pool2d(expected, 2))
