"""Students of teachers in memory, trained, resumed, validated and predicted with nnU-Net's own commands."""

import json

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_kd.losses.soft_targets import SoftTargets
from nnunet_kd.softlabels.channels import ImageWithSoftLabels
from nnunet_kd.softlabels.export import Exporter
from nnunet_kd.softlabels.stores import open_store
from nnunet_kd.teachers.model import load_checkpoint_file
from nnunet_kd.teaching.reference import Reference
from nnunet_kd.teaching.source import Teaching
from nnunet_kd.teaching.weights import weigh, weighted_mean
from tests.e2e.conftest import SMALL, read_segmentation

FEATURE, MULTI = "nnUNetTrainerKDFeature", "nnUNetTrainerKDMultiTeacher"
NO_FEATURES = ["features.importance.weight=0", "features.region_affinity.weight=0"]


def trainer_of(workspace, monkeypatch, plans, name, configuration="3d_fullres"):
    for key, value in workspace.environment.items():
        monkeypatch.setenv(key, value)
    return get_trainer_from_args("4", configuration, 0, name, plans, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def student(workspace, teachers):
    """A 3D student of one teacher, with every kind of term, after its training; its model folder."""
    workspace.plan(
        "Feature", "-c", "3d_fullres", "--student", SMALL, "--teachers", teachers["3d_fullres"] + ":0",
        "--batch_size", "2", "schedule.iterations_per_epoch=4", "schedule.seed=3", "features.hint.weight=0.1",
        "features.channel_wise.weight=0.1", "features.intra_class.weight=0.1", "features.similarity.weight=0.1",
        "student.trainer=nnUNetTrainerKDFeature",
    )  # fmt: skip
    printed = workspace.train("Feature", "0", FEATURE)
    assert "Features: student's encoder.0 <- encoder.0 of nnUNetTrainerKDTeacher" in printed
    return workspace.results / f"{FEATURE}__Feature__3d_fullres"


def test_the_checkpoint_is_a_stock_one_with_the_heads_beside_it(student):
    checkpoint = load_checkpoint_file(student / "fold_0" / "checkpoint_final.pth")
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert not [k for k in checkpoint["network_weights"] if not k.startswith(("encoder.", "decoder."))]
    in_network = len(checkpoint["network_weights"])
    assert len(checkpoint["optimizer_state"]["param_groups"][0]["params"]) <= in_network, "heads have an own optimizer"
    assert {n.partition(".")[0] for w in checkpoint["kd_heads"]["weights"] for n in w} == {"hint_0", "hint_1"}
    log = checkpoint["logging"]
    for name in ("hard", "soft_ce", "soft_dice", "importance", "region_affinity", "hint", "intra_class", "similarity"):
        assert np.isfinite(log[f"kd_{name}"]).all()
        assert len(log[f"kd_{name}"]) == 2


def test_it_continues_validates_and_predicts(workspace, student, tmp_path):
    plans_file = workspace.preprocessed / "Feature.json"
    plans = json.loads(plans_file.read_text())
    plans["kd"]["schedule"]["num_epochs"] = 3
    plans_file.write_text(json.dumps(plans))
    printed = workspace.train("Feature", "0", FEATURE, "--c")
    assert "Epoch 2" in printed
    assert "Epoch 1 " not in printed
    plans["kd"]["teachers"][0]["folder"] = "nnUNetTrainer__Gone__3d_fullres"
    plans_file.write_text(json.dumps(plans))
    printed = workspace.train("Feature", "0", FEATURE, "--val")
    assert "Mean Validation Dice" in printed
    assert "No comparison with the teachers" in printed, "a validation needs no teacher"
    workspace.run(
        "nnUNetv2_predict", "-i", workspace.raw / "imagesTs", "-o", tmp_path, "-d", "4", "-c", "3d_fullres", "-f", "0",
        "-tr", FEATURE, "-p", "Feature", "-device", "cpu", "-npp", "0", "-nps", "0",
    )  # fmt: skip
    files = sorted(tmp_path.glob("*.nii.gz"))
    assert len(files) == 2
    assert set(np.unique(read_segmentation(files[0]))) <= {0, 1, 2}


def test_stored_predictions_give_the_loss_of_teachers_in_memory(workspace, teachers, monkeypatch):
    """One unaugmented patch that holds a whole image; teachers without mirroring, so one window is all they see."""
    settings = [
        "ensemble.mirroring=false", "multi_teacher.weights=paper", "distillation.kl.weight=1",
        "distillation.kl.temperature=4", "distillation.kl.direction=student_teacher", "distillation.mse.weight=1",
        "schedule.seed=6", *NO_FEATURES,
    ]  # fmt: skip
    arguments = [
        "-c",
        "3d_fullres",
        "--student",
        SMALL,
        "--teachers",
        teachers["3d_fullres"],
        "--batch_size",
        "2",
    ]
    workspace.plan("Online", *arguments, *settings)
    workspace.plan("Stored", *arguments, *settings, "multi_teacher.source=stored", "ensemble.name=stored")
    online, stored = (trainer_of(workspace, monkeypatch, p, MULTI) for p in ("Online", "Stored"))
    for trainer in (online, stored):
        trainer.initialize()
    stored.network.load_state_dict(online.network.state_dict())
    members = stored.teaching_ensemble().stores()
    assert len(members) == 2
    online.teaching.start(online.bare_network, None, 0)
    assert len(online.teaching.teachers) == 2
    case = members[0].student.dataset.identifiers[0]
    image, segmentation, _, _ = members[0].student.dataset.load_case(case)
    for member in members:
        Exporter(member, torch.device("cpu")).run([case], progress=False)
    stored.teaching.stores = tuple(open_store(m) for m in members)
    joined = ImageWithSoftLabels(image, [s.read(case) for s in stored.teaching.stores])

    patch = online.configuration_manager.patch_size
    assert all(i <= p for i, p in zip(image.shape[1:], patch, strict=True)), "the image must fit into one patch"
    everything = (slice(None),) * 4
    data = torch.from_numpy(pad_nd_image(joined[everything], patch, "constant", {"constant_values": 0}))[None]
    target = torch.from_numpy(pad_nd_image(segmentation[everything].astype(np.float32), patch, "constant"))[None]
    online.set_deep_supervision_enabled(False)
    online.enable_deep_supervision = False
    online.loss = online._build_loss()
    online.kd_loss.output_weights = (1.0,)
    inside = data[:, -1:] > 0.5

    # the padding around the image is known to nobody: in memory it is left out as the stored mask leaves it out
    reference = Reference(target.clamp_min(0), 3, sigmoid=False)
    with torch.no_grad():
        images = data[:, :1]
        output = online.network(images)
        from_stores = stored.teaching.teach(data, images, reference)
        known = [t.predict(images)[0].softmax(1) * inside for t in online.teaching.teachers]
        weights = weigh(online.kd.multi_teacher, known, inside, reference, sigmoid=False)
        in_memory = Teaching(SoftTargets(weighted_mean(known, weights), inside), weights)
        values = {
            name: {f"kd_{k}": v for k, v in online.kd_loss(output, teaching.targets, 0.0).items()}
            for name, teaching in (("online", in_memory), ("stored", from_stores))
        }
    for term in ("kd_kl", "kd_mse", "kd_soft_ce", "kd_soft_dice"):
        assert float(values["online"][term]) > 0
        assert float(values["stored"][term]) == pytest.approx(float(values["online"][term]), rel=0.01), term
    np.testing.assert_allclose(in_memory.weights, from_stores.weights, atol=2e-3)


def test_several_teachers_in_2d_train_resume_and_predict(workspace, teachers, tmp_path):
    twice = [teachers["2d"] + ":0"] * 2
    workspace.plan(
        "Multi2d", "-c", "2d", "--student", SMALL, "--teachers", *twice, "--batch_size", "8",
        "schedule.iterations_per_epoch=3", "multi_teacher.weights=inverse", "hard_loss.name=dice_lovasz",
        "hard_loss.dice_weight=0.2", "hard_loss.other_weight=0.3", "schedule.save_every=1",
    )  # fmt: skip
    printed = workspace.train("Multi2d", "0", MULTI, configuration="2d")
    assert "Teacher weights, mean of the epoch: [0.5, 0.5]" in printed
    plans_file = workspace.preprocessed / "Multi2d.json"
    plans = json.loads(plans_file.read_text())
    plans["kd"]["schedule"]["num_epochs"] = 3
    plans_file.write_text(json.dumps(plans))
    assert "Epoch 2" in workspace.train("Multi2d", "0", MULTI, "--c", configuration="2d")
    workspace.run(
        "nnUNetv2_predict", "-i", workspace.raw / "imagesTs", "-o", tmp_path, "-d", "4", "-c", "2d", "-f", "0",
        "-tr", MULTI, "-p", "Multi2d", "-device", "cpu", "-npp", "0", "-nps", "0",
    )  # fmt: skip
    assert len(list(tmp_path.glob("*.nii.gz"))) == 2


def test_stored_teachers_train_with_nnunets_command(workspace, teachers):
    workspace.plan(
        "MultiStored", "-c", "3d_fullres", "--student", SMALL, "--teachers", teachers["3d_fullres"],
        "--batch_size", "2", "schedule.iterations_per_epoch=3", "multi_teacher.weights=paper",
        "multi_teacher.source=stored", "ensemble.name=each", "schedule.num_epochs=1",
        "ensemble.mirroring=false", *NO_FEATURES,
    )  # fmt: skip
    workspace.run("nnUNetv2_kd", "softlabels", "-d", "4", "-c", "3d_fullres", "-p", "MultiStored", "-device", "cpu")
    stores = list((workspace.preprocessed / "kd_softlabels").glob("each-*"))
    assert len(stores) == 2
    printed = workspace.train("MultiStored", "0", MULTI)
    assert "missing, exporting" not in printed
    weights = json.loads(printed.partition("mean of the epoch:")[2].partition("]")[0] + "]")
    assert sum(weights) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("teacher", "folds", "sentence"),
    [
        ("3d_lowres", ":0", "was trained on images with other preprocessing"),
        ("2d", ":0", "was trained on images with other preprocessing"),
        ("3d_fullres", "", "nnUNetTrainerKDFeature has one teacher network, found 2"),
    ],
)
def test_teachers_that_cannot_teach_are_refused_with_one_sentence(
    workspace, teachers, monkeypatch, capsys, teacher, folds, sentence
):
    name = f"Refused_{teacher}"
    workspace.plan(name, "-c", "3d_fullres", "--student", SMALL, "--teachers", teachers[teacher] + folds)
    with pytest.raises(SystemExit) as stop:
        trainer_of(workspace, monkeypatch, name, FEATURE).on_train_start()
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
