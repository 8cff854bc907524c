"""``nnUNetv2_kd plan`` for students with teachers in memory: features, pairs, next commands."""

import pytest
from torch import nn

from tests.unit.test_plan_command import folder, make_model, make_plans, plan, read, refuse

__all__ = ["folder"]
TEACHER = "nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(name="results")
def _results(folder, tmp_path):
    results = tmp_path / "results" / folder.name
    make_model(results, TEACHER)
    return results


def test_features_are_listed_with_shapes_and_pairs_and_nothing_is_written(folder, results, capsys):
    plan("-c", "3d_fullres", "--student", "depth=-1,width=0.5", "--teachers", TEACHER, "--list-taps")
    printed = capsys.readouterr().out
    assert "3d_fullres, patch 16 x 16 x 16" in printed
    for line in ("encoder.1  16        8 x 8 x 8     encoder.stages.1", "decoder.1  16        16 x 16 x 16"):
        assert line in printed
    assert f"pairs with {TEACHER}: encoder.0 <- encoder.0, decoder.0 <- decoder.1" in printed
    assert [f.name for f in folder.glob("*KD*")] == []


def test_named_pairs_are_shown_and_networks_without_names_list_their_layers(folder, results, capsys, monkeypatch):
    monkeypatch.setenv("NNUNET_KD_ALLOWED_PACKAGES", "tests")
    plans = make_plans()
    architecture = plans["configurations"]["2d"]["architecture"]
    architecture |= {"network_class_name": f"{__name__}.Plain", "arch_kwargs": {}, "_kw_requires_import": []}
    make_model(results, "nnUNetTrainer__Plain__2d", (0,), plans)
    pairs = 'features.pairs=[{"student": "bottleneck", "teacher": "body.0"}]'
    plan("-c", "2d", "--teachers", "nnUNetTrainer__Plain__2d", "--list-taps", "--set", pairs)
    printed = capsys.readouterr().out
    assert "features of this network have no names" in printed
    assert "body.0   5         16 x 16  body.0" in printed
    assert "pairs with nnUNetTrainer__Plain__2d: bottleneck <- body.0" in printed
    wrong = pairs.replace("body.0", "body.7")
    arguments = ["-c", "2d", "--teachers", "nnUNetTrainer__Plain__2d", "--list-taps"]
    assert "feature 'body.7'" in refuse(capsys, *arguments, "--set", wrong)
    plan(*arguments)
    assert "kd.features.pairs: no two features" in capsys.readouterr().out


def test_a_feature_recipe_prints_its_trainer_and_no_export(folder, results, capsys):
    plan("-c", "3d_fullres", "--recipe", "qin2021", "--teachers", f"{TEACHER}:0", "-o", "Qin")
    printed = capsys.readouterr().out
    assert "nnUNetv2_train 900 3d_fullres FOLD -tr nnUNetTrainerKDFeature -p Qin" in printed
    assert "softlabels" not in printed
    assert "Note: nnUNetTrainerKDFeature" not in printed
    kd = read(folder, "Qin")["kd"]
    assert (kd["distillation"]["kl"]["weight"], kd["features"]["importance"]["weight"]) == (0.1, 0.9)


def test_a_second_teacher_network_is_noted_for_the_feature_trainer(folder, results, capsys):
    plan("-c", "3d_fullres", "--recipe", "qin2021", "--teachers", TEACHER, "-o", "Two")
    assert "nnUNetTrainerKDFeature has one teacher network, 3d_fullres has 2" in capsys.readouterr().out


def test_stored_teachers_are_exported_first_and_have_no_features(folder, results, capsys):
    stored = ["--recipe", "benloussaief2023_multi", "--teachers", TEACHER, "-o", "M", "--set"]
    stored.append("multi_teacher.source=stored")
    assert "stored soft labels have no features" in refuse(capsys, "-c", "3d_fullres", *stored)
    off = ["features.importance.weight=0", "features.region_affinity.weight=0"]
    plan("-c", "3d_fullres", *stored, *off)
    printed = capsys.readouterr().out
    assert "nnUNetv2_kd softlabels -d 900 -c 3d_fullres -p M" in printed
    assert "-tr nnUNetTrainerKDMultiTeacher" in printed


class Plain(nn.Sequential):
    """A network of another library: no encoder, no decoder, no names."""

    def __init__(self, input_channels, num_classes, deep_supervision):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(input_channels, 5, 1), nn.Conv2d(5, num_classes, 1))
