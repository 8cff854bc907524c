"""Teachers in memory: what they must share with the student, and what the student sees of them."""

from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.losses import unpack_soft_labels
from nnunet_kd.losses.term import Features
from nnunet_kd.teachers.fitness import check_same_input, patch_note
from nnunet_kd.teachers.loading import build_network
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.teaching.memory import as_channels, load_online_teacher, networks_of
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
    loaded = load_online_teacher(model, 0, student_space(configuration), student, Features(), CPU)
    assert [(p.student, p.teacher) for p in loaded.pairs] == [("encoder.0", "encoder.0"), ("decoder.1", "decoder.1")]
    assert loaded.channels == ((16, 16), (16, 16))
    images = torch.randn(2, 1, *[16] * (2 if configuration == "2d" else 3), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lesson = loaded.teach(images)
    assert lesson.logits.dtype == torch.float32
    assert lesson.logits.shape == (2, 3, *images.shape[2:])
    assert [f.dtype for f in lesson.features] == [torch.bfloat16] * 2, "as the student's, in the same autocast"
    assert not any(t.requires_grad for t in (lesson.logits, *lesson.features))
    assert not any(p.requires_grad for p in loaded.network.parameters())
    assert not loaded.network.training
    assert "PlainConvUNet" not in repr(loaded), "nnU-Net writes attributes of the trainer into debug.json"


def test_without_feature_terms_there_are_no_pairs(tmp_path):
    loaded = load_online_teacher(teacher(tmp_path, plans_with()), 0, student_space(), student_network(), None, CPU)
    assert loaded.pairs == ()
    assert loaded.teach(torch.zeros(1, 1, 16, 16)).features == []


def test_pairs_may_be_named_and_need_not_be_of_equal_size(tmp_path):
    features = from_dict(Features, {"pairs": [{"student": "bottleneck", "teacher": "encoder.1"}]}, "kd.features")
    loaded = load_online_teacher(teacher(tmp_path, plans_with()), 0, student_space(), student_network(), features, CPU)
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
        load_online_teacher(model, 0, odd, student_network(), None, CPU)


def test_every_fold_of_every_folder_is_a_network():
    models = [TeacherModel(Path("a"), "2d", (0, 2)), TeacherModel(Path("b"), "2d", ("all",))]
    assert [(m.folder.name, f) for m, f in networks_of(models)] == [("a", 0), ("a", 2), ("b", "all")]


@pytest.mark.parametrize("sigmoid", [False, True])
def test_predictions_in_memory_have_the_layout_of_stored_ones(sigmoid):
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    probabilities = logits.sigmoid() if sigmoid else logits.softmax(1)
    unpacked, valid = unpack_soft_labels(as_channels(probabilities, None, sigmoid), sigmoid)
    torch.testing.assert_close(unpacked, probabilities)
    assert valid.all()
    half = torch.rand(2, 1, 4, 4) > 0.5
    unpacked, valid = unpack_soft_labels(as_channels(probabilities * half, half, sigmoid), sigmoid)
    torch.testing.assert_close(unpacked, probabilities * half)
    assert (valid == half).all()
