"""Predictions on both ends: what teachers export, from whom a student starts, how often it runs when it is deployed.

``benchmarks/mutants.yaml`` lists the mistakes that these tests were written against.
"""

import itertools
import json

import blosc2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nnunet_kd.cli import main
from tests.model_folders import write_validation
from tests.unit.small_trainings import (
    CONFIGURATION,
    NO_FEATURES,
    TEACHER,
    TRAININGS,
    make_teacher,
    network_of,
    predictor_of,
    start,
    world,
    write_plans,
)

ALL_AXES = [axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n)]


@pytest.fixture(scope="module", name="toy")
def _toy(tmp_path_factory):
    with world(tmp_path_factory.mktemp("world")) as toy:
        yield toy


def stored(toy, name, case):
    """The values on disk (C - 1, z, y, x) of the store whose folder begins with a name."""
    folders = sorted((toy.preprocessed / "kd_softlabels").glob(f"{name}*"))
    (file,) = folders[0].rglob(f"{case}.b2nd")
    return blosc2.open(str(file))[:] / 255


@pytest.fixture(scope="module", name="wide")
def _wide(toy):
    """Teachers that see a whole case in one window, so that a prediction is written down in a few lines."""
    plans = json.loads((toy.preprocessed / "Teacher.json").read_text())
    for name, folds in (("Wide", (0, 1)), ("Other", (2,))):
        folder = make_teacher(toy, name, folds)
        plans["plans_name"] = name
        plans["configurations"][CONFIGURATION]["patch_size"] = [24, 24, 24]
        (folder / "plans.json").write_text(json.dumps(plans))
    return [toy.results / TEACHER.replace("Teacher__3d", f"{n}__3d") for n in ("Wide", "Other")]


def logits_of_case(toy, folder, fold, axes=ALL_AXES):
    """Mean logits (C, z, y, x) of case_0 over mirrored images, padded as nnU-Net pads them."""
    image = torch.from_numpy(blosc2.open(str(toy.preprocessed / f"nnUNetPlans_{CONFIGURATION}" / "case_0.b2nd"))[:])
    room = [(24 - s) // 2 for s in image.shape[1:]]
    padding = [p for s, r in reversed(list(zip(image.shape[1:], room, strict=True))) for p in (r, 24 - s - r)]
    inner = (slice(None), *(slice(r, r + s) for r, s in zip(room, image.shape[1:], strict=True)))
    network, padded = network_of(folder, fold), F.pad(image, padding)[None]
    with torch.no_grad():
        predictions = [network(padded.flip(a)).flip(a) for a in axes]
    return torch.stack(predictions).mean(0)[0][inner]


@pytest.mark.parametrize("mirroring", [True, False])
@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_exported_soft_labels_are_means_over_mirrored_images_and_over_networks(toy, wide, combine, mirroring):
    name = f"{combine}-{mirroring}"
    kd = {
        "teachers": [{"folder": wide[0].name, "folds": [0, 1]}, {"folder": wide[1].name, "folds": [2]}],
        "ensemble": {"name": name, "combine": combine, "mirroring": mirroring, "use_gaussian": False},
    }
    write_plans(toy, "Student", kd)
    main(["softlabels", "-d", "900", "-c", CONFIGURATION, "-p", "Student", "-f", "0", "-device", "cpu"])
    axes = ALL_AXES if mirroring else [()]
    a, b, c = (logits_of_case(toy, f, fold, axes) for f, fold in ((wide[0], 0), (wide[0], 1), (wide[1], 2)))
    if combine == "logits":
        expected = (((a + b) / 2).softmax(0) + c.softmax(0)) / 2
    else:
        expected = (a.softmax(0) + b.softmax(0) + c.softmax(0)) / 3
    np.testing.assert_allclose(stored(toy, name, "case_0"), expected[1:].numpy(), atol=1.5 / 255)


def test_windows_of_the_teachers_are_those_of_the_plans(toy):
    ensemble = {"name": "windows", "step_size": 0.25, "use_gaussian": True, "mirroring": False}
    write_plans(toy, "Student", {"teachers": [{"folder": TEACHER, "folds": [0]}], "ensemble": ensemble})
    main(["softlabels", "-d", "900", "-c", CONFIGURATION, "-p", "Student", "-device", "cpu"])
    image = blosc2.open(str(toy.preprocessed / f"nnUNetPlans_{CONFIGURATION}" / "case_0.b2nd"))[:]
    found = stored(toy, "windows", "case_0")
    predictions = {}
    for step_size in (0.25, 0.5):
        predictor = predictor_of(toy.results / TEACHER, step_size=step_size)
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(image)).float()
        predictions[step_size] = logits.softmax(0)[1:].numpy()
    np.testing.assert_allclose(found, predictions[0.25], atol=1.5 / 255)
    assert np.abs(found - predictions[0.5]).max() > 5 / 255


def test_soft_labels_of_several_teachers_are_those_of_each_alone(toy, wide):
    kd = {
        "teachers": [{"folder": wide[0].name, "folds": [0, 1]}],
        "multi_teacher": {"source": "stored"},
        "ensemble": {"name": "each", "use_gaussian": False},
        **NO_FEATURES,
    }
    write_plans(toy, "Student", kd)
    main(["softlabels", "-d", "900", "-c", CONFIGURATION, "-p", "Student", "-device", "cpu"])
    expected = [logits_of_case(toy, wide[0], fold).softmax(0)[1:].numpy() for fold in (0, 1)]
    files = sorted((toy.preprocessed / "kd_softlabels").glob("each*/*/case_0.b2nd"))
    found = [blosc2.open(str(f))[:] / 255 for f in files]
    assert len(found) == 2
    closest = [int(np.argmin([np.abs(f - e).max() for e in expected])) for f in found]
    assert sorted(closest) == [0, 1]
    for values, i in zip(found, closest, strict=True):
        np.testing.assert_allclose(values, expected[i], atol=1.5 / 255)


@pytest.mark.parametrize("training", TRAININGS)
def test_a_student_does_not_mirror_at_prediction_unless_it_is_told_to(toy, training):
    for mirroring, passes in ((False, 1), (True, 8)):
        trainer = start(toy, training, {"role": "student", "student": {"mirroring": mirroring}})
        folder = toy.results / f"{TRAININGS[training][0]}__Student__{CONFIGURATION}"
        trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
        saved = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
        assert bool(saved["inference_allowed_mirroring_axes"]) == mirroring
        predictor, calls = predictor_of(folder, mirroring=True), []
        predictor.network.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        predictor.predict_sliding_window_return_logits(torch.zeros(1, 16, 16, 16))
        assert len(calls) == passes


def test_a_teacher_mirrors_at_prediction(toy):
    saved = torch.load(toy.results / TEACHER / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert saved["inference_allowed_mirroring_axes"] == (0, 1, 2)


def test_a_teacher_that_may_not_mirror_is_named_at_the_export(toy, capsys):
    folder = make_teacher(toy, "Unmirrored", (0,))
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(file, weights_only=False) | {"inference_allowed_mirroring_axes": None}, file)
    kd = {"teachers": [{"folder": folder.name}], "ensemble": {"name": "unmirrored"}}
    write_plans(toy, "Student", kd)
    main(["softlabels", "-d", "900", "-c", CONFIGURATION, "-p", "Student", "-device", "cpu"])
    assert f"{folder.name} fold 0 is not mirrored" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["inherit", "best_member"])
@pytest.mark.parametrize("training", ["ensemble", "feature", "several", "several, stored"])
def test_a_student_starts_from_the_member_with_the_highest_validation_dice(toy, training, how):
    for fold, dice in ((0, 0.3), (1, 0.9), (2, 0.6)):
        write_validation(toy.results / TEACHER / f"fold_{fold}", dice)
    folds = [0] if training == "feature" else [0, 1, 2]
    quick = {"ensemble": {"mirroring": False}, "unlabeled": {"fraction": 0.0}}
    kd = {"student": {"start": how}, "teachers": [{"folder": TEACHER, "folds": folds}], **quick}
    trainer = start(toy, training, kd)
    best = torch.load(
        toy.results / TEACHER / f"fold_{0 if training == 'feature' else 1}" / "checkpoint_final.pth", weights_only=False
    )["network_weights"]
    assert all(torch.equal(v, best[k]) for k, v in trainer.network.state_dict().items())
