"""``nnUNetv2_kd plan`` on handwritten plans: what it writes, prints and refuses."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.cli import main
from nnunet_kd.config import KDConfig
from nnunet_kd.planning.comparison import _times
from nnunet_kd.planning.cost import count_windows, measure
from nnunet_kd.planning.kd_block import parse_teacher
from nnunet_kd.planning.network import PlannedModel
from nnunet_kd.planning.next_steps import after_preprocessing_unlabeled
from nnunet_kd.planning.recipes import load_recipe, recipe_names
from nnunet_kd.planning.schedule import settings_of_length
from nnunet_kd.utilities.schema import from_dict

DATASET = "Dataset900_Toy"
DATASET_JSON = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 4,
    "file_ending": ".nii.gz",
}

RESAMPLING = {
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
}


def make_configuration(name: str, dim: int, size: list[int], network: str) -> dict:
    blocks = "n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "data_identifier": f"nnUNetPlans_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16] * dim,
        "median_image_size_in_voxels": [float(s) for s in size],
        "spacing": [1.0] * dim,
        **RESAMPLING,
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [16, 32, 64],
                "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
                "kernel_sizes": [[3] * dim] * 3,
                "strides": [[1] * dim, [2] * dim, [2] * dim],
                blocks: [1, 1, 1],
                "n_conv_per_stage_decoder": [1, 1],
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }


def make_plans(network: str = "PlainConvUNet") -> dict:
    configurations = {
        "2d": make_configuration("2d", 2, [24, 20], network),
        "3d_lowres": make_configuration("3d_lowres", 3, [12, 16, 16], network) | {"next_stage": "3d_cascade_fullres"},
        "3d_fullres": make_configuration("3d_fullres", 3, [20, 24, 16], network),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [10, 24, 20],
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0}},
    }


@pytest.fixture(params=["PlainConvUNet", "ResidualEncoderUNet"])
def any_network(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """``nnUNet_preprocessed/DatasetXXX_NAME`` with plans of plain U-Nets; nothing is preprocessed or trained."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / DATASET).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    folder = tmp_path / "preprocessed" / DATASET
    write_json(folder / "nnUNetPlans.json", make_plans())
    write_json(folder / "dataset.json", DATASET_JSON)
    return folder


def write_json(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def make_model(
    results: Path, name: str, folds: tuple = (0, 1), plans: dict | None = None, mirror_axes: tuple | None = (0, 1)
) -> Path:
    checkpoint = {
        "network_weights": {},
        "trainer_name": name.split("__")[0],
        "inference_allowed_mirroring_axes": mirror_axes,
    }
    for fold in folds:
        (results / name / f"fold_{fold}").mkdir(parents=True)
        torch.save(checkpoint, results / name / f"fold_{fold}" / "checkpoint_final.pth")
    write_json(results / name / "plans.json", plans or make_plans())
    write_json(results / name / "dataset.json", DATASET_JSON)
    return results / name


def plan(*arguments: str) -> None:
    main(["plan", "-d", "900", *arguments])


def refuse(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        plan(*arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / f"{name}.json").read_text())


def test_all_configurations_are_scaled_once_and_share_the_data(folder, any_network):
    write_json(folder / "nnUNetPlans.json", make_plans(any_network))
    plan("--student", "width=0.5", "--keep-resampling")
    plans = read(folder, "nnUNetPlansKD_width0p5")
    assert plans["plans_name"] == "nnUNetPlansKD_width0p5"
    assert plans["configurations"]["3d_cascade_fullres"] == {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
    }
    for name in make_plans()["configurations"]:
        new, base = (PlansManager(p).get_configuration(name) for p in (plans, make_plans(any_network)))
        assert new.network_arch_init_kwargs["features_per_stage"] == [8, 16, 32]
        differing = {k for k, v in new.configuration.items() if base.configuration[k] != v}
        assert differing == {"architecture"}
    unchanged = set(make_plans()) - {"plans_name", "configurations"}
    assert {k: plans[k] for k in unchanged} == {k: make_plans()[k] for k in unchanged}


def test_cascade_brings_its_previous_stage_and_its_parent(folder):
    plan("-c", "3d_cascade_fullres", "-o", "Cascade", "--batch_size", "5", "--student", "depth=-1")
    configurations = read(folder, "Cascade")["configurations"]
    assert list(configurations) == ["3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert configurations["3d_lowres"]["next_stage"] == "3d_cascade_fullres"
    assert [c.get("batch_size") for c in configurations.values()] == [2, 2, 5]
    assert configurations["3d_lowres"]["architecture"]["arch_kwargs"]["n_stages"] == 2


def test_next_stage_names_only_what_is_kept(folder):
    plan("-c", "3d_lowres", "2d", "-o", "Two", "--batch_size", "7")
    configurations = read(folder, "Two")["configurations"]
    assert list(configurations) == ["2d", "3d_lowres"]
    assert "next_stage" not in configurations["3d_lowres"]
    assert [c["batch_size"] for c in configurations.values()] == [7, 7]


def test_budget_holds_for_every_configuration_that_inherits_the_network(folder):
    plan("-c", "3d_cascade_fullres", "-o", "Budget", "--student", "params=30k")
    manager = PlansManager(read(folder, "Budget"))
    for name in ("3d_fullres", "3d_cascade_fullres", "3d_lowres"):
        assert 8_000 < measure(PlannedModel(manager, name, DATASET_JSON), name).parameters <= 30_000


def test_kd_block_is_whole_valid_and_in_order_of_precedence(folder):
    options = ["--student", "same", "--set", "optimizer.initial_lr=0.01", "--set", "schedule.num_epochs=7"]
    plan("-c", "2d", "-o", "Student", "--recipe", "noothout2022", *options)
    plans = read(folder, "Student")
    kd = KDConfig.from_plans(plans)
    assert (kd.recipe, kd.base_plans, kd.role, kd.teachers) == ("noothout2022", "nnUNetPlans", "student", ())
    assert (kd.optimizer.name, kd.optimizer.initial_lr, kd.schedule.num_epochs) == ("adam", 0.01, 7)
    assert kd.student.start == "best_member"
    assert plans["kd"]["store"] == {"dtype": "uint8"}


def test_student_prints_table_and_commands(folder, capsys):
    plan("-c", "2d", "--student", "width=0.5")
    out = capsys.readouterr().out
    name = "nnUNetPlansKD_width0p5"
    assert f"nnUNetv2_kd softlabels -d 900 -c 2d -p {name}" in out
    assert f"nnUNetv2_train 900 2d FOLD -tr nnUNetTrainerKDEnsemble -p {name}" in out
    assert f"nnUNetv2_predict -d 900 -c 2d -f FOLD -tr nnUNetTrainerKDEnsemble -p {name} -i INPUT -o OUTPUT" in out
    assert "nnUNetv2_train 900 2d FOLD -tr nnUNetTrainer -p nnUNetPlans" in out  # teachers are not trained yet
    assert "nnUNetv2_preprocess -d 900 -plans_name nnUNetPlans -c 2d" in out
    assert "not a measured speed-up" in out


@pytest.mark.parametrize("spoiled", ["plans.json", "dataset.json"])
def test_a_default_teacher_that_cannot_be_used_is_not_taken_for_one_that_is_not_trained(folder, capsys, spoiled):
    model = make_model(folder.parents[1] / "results" / DATASET, "nnUNetTrainer__nnUNetPlans__2d")
    (model / spoiled).write_text("{}")
    assert f"{model / spoiled}" in refuse(capsys, "-c", "2d", "--student", "width=0.5")
    assert not (folder / "nnUNetPlansKD_width0p5.json").exists()


def test_teacher_role_needs_no_teachers(folder, capsys):
    plan("-c", "3d_fullres", "--role", "teacher", "--set", "schedule.seed=3")
    assert KDConfig.from_plans(read(folder, "nnUNetPlansKDTeacher")).schedule.seed == 3
    out = capsys.readouterr().out
    assert "nnUNetv2_train 900 3d_fullres FOLD -tr nnUNetTrainerKDTeacher -p nnUNetPlansKDTeacher" in out
    assert "softlabels" not in out


def test_plans_from_a_teachers_plans_take_over_its_length_and_optimizer_and_have_it_as_teacher(folder, capsys):
    numbers = ["schedule.num_epochs=20", "schedule.seed=3", "optimizer.name=adam", "optimizer.initial_lr=0.003"]
    plan("-c", "2d", "--role", "teacher", "-o", "T", "--set", *numbers, "hard_loss.name=ce")
    make_model(folder.parents[1] / "results" / DATASET, "nnUNetTrainerKDTeacher__T__2d", (0, 1), read(folder, "T"))
    capsys.readouterr()
    plan("-p", "T", "--student", "width=0.5", "-o", "S", "--set", "optimizer.initial_lr=0.001")
    kd = KDConfig.from_plans(read(folder, "S"))
    assert (kd.schedule.num_epochs, kd.optimizer.name, kd.optimizer.initial_lr) == (20, "adam", 0.001)
    assert (kd.schedule.seed, kd.hard_loss.name, kd.role) == (None, "dice_ce", "student")
    out = capsys.readouterr().out
    assert 'From T: schedule.num_epochs=20, optimizer.name="adam"; other values with' in out
    assert "nnUNetTrainerKDTeacher__T__2d x 2 folds" in out
    assert "FOLD -tr nnUNetTrainerKDTeacher" not in out  # it is trained already


def test_a_recipes_own_optimizer_takes_the_place_of_the_base_plans(folder):
    plan("-c", "2d", "--role", "teacher", "-o", "T", "--set", "schedule.num_epochs=20", "optimizer.momentum=0.5")
    plan("-p", "T", "-o", "S", "--recipe", "qin2021")
    kd = KDConfig.from_plans(read(folder, "S"))
    assert (kd.schedule.num_epochs, kd.optimizer.name, kd.optimizer.momentum) == (20, "adam", 0.99)


@pytest.mark.parametrize(
    ("iterations", "schedule"),
    [(250_000, (1000, 250, 50)), (5000, (20, 250, 50)), (1000, (20, 50, 10)), (50, (25, 2, 1)), (1, (1, 1, 1))],
)
def test_iterations_are_epochs_of_a_sensible_length(iterations, schedule):
    assert tuple(int(setting.partition("=")[2]) for setting in settings_of_length(iterations)) == schedule


def test_any_number_of_iterations_is_kept_by_whole_epochs():
    for wanted in range(20, 20_000, 7):
        values = [int(s.partition("=")[2]) for s in settings_of_length(wanted)]
        assert abs(values[0] * values[1] - wanted) < 0.03 * wanted


def test_settings_win_over_iterations(folder):
    plan("-c", "2d", "-o", "S", "--iterations", "1000", "--set", "schedule.num_epochs=3")
    schedule = KDConfig.from_plans(read(folder, "S")).schedule
    assert (schedule.num_epochs, schedule.iterations_per_epoch, schedule.val_iterations_per_epoch) == (3, 50, 10)


def test_teachers_of_several_seeds_differ_in_the_seed_only(folder, capsys):
    plan("-c", "2d", "--role", "teacher", "-o", "T", "--seeds", "1,2,3", "--set", "schedule.num_epochs=5")
    first, *others = (read(folder, f"T_seed{seed}") for seed in (1, 2, 3))
    for seed, other in enumerate(others, 2):
        assert other["kd"]["schedule"].pop("seed") == seed
        assert other.pop("plans_name") == f"T_seed{seed}"
    assert first["kd"]["schedule"].pop("seed") == 1
    assert first.pop("plans_name") == "T_seed1"
    assert others == [first, first]
    out = capsys.readouterr().out
    for seed in (1, 2, 3):
        assert f"nnUNetv2_train 900 2d FOLD -tr nnUNetTrainerKDTeacher -p T_seed{seed}\n" in out
    assert "-p T_seed1 --teachers nnUNetTrainerKDTeacher__T_seed1__2d nnUNetTrainerKDTeacher__T_seed2__2d" in out


def test_one_file_that_is_there_already_leaves_all_seeds_unwritten(folder, capsys):
    (folder / "T_seed2.json").write_text("{}")
    assert "T_seed2.json: exists" in refuse(capsys, "--role", "teacher", "-o", "T", "--seeds", "1,2")
    assert not (folder / "T_seed1.json").exists()


def test_teachers_are_looked_for_before_candidates_are_timed(folder, capsys, monkeypatch):
    monkeypatch.setattr("nnunet_kd.planning.make.choose_student", lambda draft: pytest.fail("timed first"))
    wanted = ["-c", "2d", "--latency-budget", "5", "--rank", "dice"]
    assert "no such model folder" in refuse(capsys, *wanted)
    assert "no such model folder" in refuse(capsys, *wanted[:4], "--teachers", "nnUNetTrainer__Nowhere__2d")


def test_probability_maps_need_no_teacher_to_be_trained(folder, capsys):
    plan("-c", "2d", "-o", "S", "--set", f"ensemble.from_folder={folder}")
    out = capsys.readouterr().out
    assert "softlabels -d 900" in out
    assert "FOLD -tr nnUNetTrainer -p" not in out


def test_unlabeled_images_that_are_preprocessed_are_not_asked_for_again(folder, capsys):
    plan("-c", "2d", "-o", "S", "--set", "unlabeled.fraction=0.5")
    assert "preprocess-unlabeled -d 900 -c 2d -p S\n" in capsys.readouterr().out
    cases = folder / "kd_unlabeled" / "nnUNetPlans_2d"
    cases.mkdir(parents=True)
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        (cases / f"u{ending}").touch()
    plan("-c", "2d", "-o", "S2", "--set", "unlabeled.fraction=0.5")
    assert "-p S2  # only for more images: 1 cases are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("block", "command"),
    [
        ({"role": "teacher"}, "nnUNetv2_kd plan -d 900 -c 2d -p P -o NAME --set unlabeled.fraction=0.5"),
        ({"base_plans": "Base"}, "nnUNetv2_kd plan -d 900 -c 2d -p Base -o NAME --set unlabeled.fraction=0.5"),
        ({}, "nnUNetv2_kd plan -d 900 -c 2d -p P -o NAME --set unlabeled.fraction=0.5"),
        ({"unlabeled": {"fraction": 0.5}}, "nnUNetv2_kd softlabels -d 900 -c 2d -p P"),
        (
            {"student": {"trainer": "nnUNetTrainerKDCrossTeaching"}},
            "nnUNetv2_train 900 2d FOLD -tr nnUNetTrainerKDCrossTeaching -p P",
        ),
    ],
)
def test_what_follows_the_preprocessing_of_unlabeled_images(block, command):
    assert after_preprocessing_unlabeled(from_dict(KDConfig, block, "kd"), "P", "900", "2d") == command


def test_named_teachers_are_measured_from_their_own_folders(folder, capsys, tmp_path):
    results = tmp_path / "results" / DATASET
    make_model(results, "nnUNetTrainer__Other__3d_fullres", (0, 1, 2), make_plans("ResidualEncoderUNet"))
    elsewhere = make_model(tmp_path / "elsewhere", "nnUNetTrainer__nnUNetPlans__2d", ("all",))
    plan("-c", "2d", "-o", "S", "--teachers", "nnUNetTrainer__Other__3d_fullres:0,2", f"{elsewhere}:all")
    kd = KDConfig.from_plans(read(folder, "S"))
    assert [(t.folder, t.folds) for t in kd.teachers] == [
        ("nnUNetTrainer__Other__3d_fullres", (0, 2)),
        (str(elsewhere), ("all",)),
    ]
    table = capsys.readouterr().out
    assert "nnUNetTrainer__Other__3d_fullres x 2 folds" in table
    assert "all teachers" in table


def test_default_teachers_are_measured_when_trained(folder, capsys, tmp_path):
    make_model(tmp_path / "results" / DATASET, "nnUNetTrainer__nnUNetPlans__2d", (0, 1, 2, 3, 4))
    plan("-c", "2d", "-o", "S")
    out = capsys.readouterr().out
    assert "nnUNetTrainer__nnUNetPlans__2d x 5 folds" in out
    assert "FOLD -p nnUNetPlans " not in out
    ratios = next(line for line in out.splitlines() if line.startswith("teachers / student")).split()
    assert ratios[3:] == ["5.0x", "1.0x", "1.0x", "5.0x", "5.0x", "20.0x"]
    assert "GFLOPs/image: teachers mirrored, student not mirrored." in out


def test_teachers_that_may_not_be_mirrored_are_not_counted_as_if_they_were(folder, capsys, tmp_path):
    results = tmp_path / "results" / DATASET
    make_model(results, "nnUNetTrainer__nnUNetPlans__2d", (0, 1, 2, 3, 4), mirror_axes=None)
    plan("-c", "2d", "-o", "S")
    out = capsys.readouterr().out
    ratios = next(line for line in out.splitlines() if line.startswith("teachers / student")).split()
    assert ratios[3:] == ["5.0x", "1.0x", "1.0x", "5.0x", "1.2x", "5.0x"]
    assert "GFLOPs/image: teachers not mirrored: no checkpoint allows it; student not mirrored." in out
    make_model(results, "nnUNetTrainer__Other__2d", (0,), make_plans(), mirror_axes=(1,))
    plan("-c", "2d", "-o", "S2", "--teachers", "nnUNetTrainer__Other__2d:0", "nnUNetTrainer__nnUNetPlans__2d:0,1")
    out = capsys.readouterr().out
    passes = [line.split()[-2] for line in out.splitlines() if line.startswith(("nnUNetTrainer__", "all teachers"))]
    windows = [int(line.split()[-3]) for line in out.splitlines() if line.startswith("nnUNetTrainer__")]
    assert [int(p) for p in passes] == [2 * windows[0], windows[1], 2 * windows[0] + windows[1]]
    assert "teachers mirrored where checkpoints allow it; student not mirrored" in out
    plan("-c", "2d", "-o", "S3", "--teachers", "nnUNetTrainer__Other__2d:0", "--set", "ensemble.mirroring=false")
    assert "teachers not mirrored, student not mirrored" in capsys.readouterr().out


@pytest.mark.parametrize(("mirroring", "use"), [("null", "mirrored"), ("false", "not mirrored")])
def test_a_teacher_without_mirrored_patches_is_not_counted_as_mirrored(folder, capsys, mirroring, use):
    plan("-c", "2d", "-o", "T", "--role", "teacher", "--set", f"augmentation.mirroring={mirroring}")
    assert f"GFLOPs/image: base mirrored, teacher {use}." in capsys.readouterr().out


def test_a_ratio_below_one_is_never_zero():
    assert [_times(r) for r in (1234.56, 1.0, 0.951, 0.0213, 0.00041)] == [
        "1,234.6x",
        "1.0x",
        "1.0x",
        "0.021x",
        "0.00041x",
    ]


def test_another_trainer_names_the_default_teacher_of_every_configuration(folder, tmp_path):
    results = tmp_path / "results" / DATASET
    for c in ("2d", "3d_fullres"):
        make_model(results, f"nnUNetTrainer_5epochs__nnUNetPlans__{c}")
    plan("-c", "2d", "3d_fullres", "-tr", "nnUNetTrainer_5epochs", "-o", "S")
    config = KDConfig.from_plans(read(folder, "S"))
    assert (config.default_teacher, config.teachers) == ("nnUNetTrainer_5epochs", ())


def test_windows_and_flops_agree_with_hand_counts(folder):
    flat, full, low = (
        PlannedModel(PlansManager(make_plans()), c, DATASET_JSON) for c in ("2d", "3d_fullres", "3d_lowres")
    )
    assert count_windows(flat) == 10 * 2 * 2  # 10 slices; 24 and 20 voxels need 2 windows of 16 each
    assert count_windows(full) == 2 * 2 * 1
    assert count_windows(low) == 1  # padded to the patch
    n, m, k = 16 * 16, 8 * 8, 4 * 4  # voxels at the three resolutions
    encoder = n * 1 * 16 * 9 + m * 16 * 32 * 9 + k * 32 * 64 * 9
    up = k * 64 * 32 * 4 + m * 32 * 16 * 4
    decoder = m * 64 * 32 * 9 + n * 32 * 16 * 9
    assert measure(flat, "2d").flops_per_patch == 2 * (encoder + up + decoder + n * 16 * 3)


def test_passes_multiply_windows_mirrorings_and_folds():
    model = PlannedModel(PlansManager(make_plans()), "3d_fullres", DATASET_JSON)
    one, cost = measure(model, "one"), measure(model, "t", networks=5, mirrored_axes=3)
    assert (one.passes_per_case, cost.passes_per_case) == (4, 4 * 5 * 8)
    assert (cost.parameters, cost.flops_per_case) == (5 * one.parameters, 160 * one.flops_per_patch)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_valid_and_name_their_source(name):
    recipe = load_recipe(name)
    from_dict(KDConfig, recipe.kd, "kd")
    assert recipe.source
    assert recipe.notes


def test_teacher_below_results_given_as_path_is_stored_by_name(tmp_path):
    teacher = parse_teacher(str(tmp_path / "A__B__2d"), tmp_path)
    assert (teacher.folder, teacher.folds) == ("A__B__2d", None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-p", "Other"], "nnUNetv2_plan_and_preprocess -d 900"),
        (["-p", "nnUNetResEncUNetMPlans"], "-pl nnUNetPlannerResEncM"),
        (["-c", "4d"], "there are 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres"),
        (["--recipe", "bucila2006"], "hinton2015, noothout2022"),
        (["--recipe", "noothout2022", "--student", "width=0.5"], "best_member needs"),
        (["-o", "a__b"], "-o a__b"),
        (["-o", "../a"], "-o ../a"),
        (["-o", "a.json"], "without .json"),
        (["-o", "nnUNetPlans", "--overwrite"], "name of the base plans"),
        (["-o", "dataset", "--overwrite"], "not written by nnUNetv2_kd plan"),
        (["--set", "schedule.epochs=3"], "kd.schedule.epochs: unknown key"),
        (["--student", "params=10"], "narrowest network"),
        (["--student", "depth=-2"], "fewer than 2"),
        (
            ["--teachers", "nnUNetTrainer__Nowhere__2d:0"],
            "nnUNetv2_train Dataset900_Toy 2d 0 -tr nnUNetTrainer -p Nowhere",
        ),
        (["--teachers", "A__B__2d:x"], "expected for example :0,1,2"),
        (["--teachers", "A__B__2d", "--role", "teacher"], "plans for a teacher need none"),
        (["--batch_size", "0"], "at least 1"),
        (["--iterations", "0"], "--iterations 0: expected at least 1"),
        (["--seeds", "1,2"], "add --role teacher"),
        (["--role", "teacher", "--seeds", "1,1"], "expected different whole numbers"),
        (["--role", "teacher", "--seeds", "1,x"], "expected different whole numbers"),
        (["--role", "teacher", "--seeds", "1", "--weights", "w.pth"], "leave one out"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_no_file(folder, capsys, arguments, sentence):
    before = sorted(folder.iterdir())
    error = refuse(capsys, *arguments)
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_unknown_datasets_are_refused(folder, capsys):
    for dataset, sentence in (("7", "-d 7"), ("Dataset007_No", "not there"), ("seven", "no such data set")):
        with pytest.raises(SystemExit):
            main(["plan", "-d", dataset])
        assert sentence in capsys.readouterr().err


def test_unset_variables_are_named(folder, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_results")
    assert "nnUNet_results is not set" in refuse(capsys)


def test_existing_kd_plans_are_replaced_only_on_request(folder, capsys):
    plan("-c", "2d", "-o", "S")
    assert "--overwrite" in refuse(capsys, "-c", "2d", "-o", "S", "--batch_size", "9")
    assert read(folder, "S")["configurations"]["2d"]["batch_size"] == 2
    plan("-c", "2d", "-o", "S", "--batch_size", "9", "--overwrite")
    assert read(folder, "S")["configurations"]["2d"]["batch_size"] == 9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan", "-d", "900", "--recipe", "qin2012"], "--recipe qin2012: no such recipe; there are "),
        (["plan", "-d", "900", "--rank", "dice"], "--rank dice: "),
        (["plan", "-d", "900", "-p", "Other"], "no such plans"),
        (["plan", "-d", "900", "--weights", "nowhere.pth"], "--weights nowhere.pth: no such file"),
        (["distill", "-d", "900", "-c", "2d", "--recipe", "qin2012"], "--recipe qin2012: no such recipe"),
        (["distill", "-d", "900", "-c", "2d", "--test", "no", "no"], "--test no: no such folder"),
        (["softlabels", "-d", "901"], "-d 901: no such data set"),
        (["preprocess-unlabeled", "-d", "901"], "-d 901: no such data set"),
    ],
)
def test_what_needs_no_torch_to_be_found_wrong_is_told_before_it_is_imported(folder, arguments, sentence):
    script = (
        "import sys; from nnunet_kd.cli import main\ntry: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stdout == "False\n"


def test_help_answers_fast():
    start = time.perf_counter()
    command = [sys.executable, "-m", "nnunet_kd.cli", "plan", "--help"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert time.perf_counter() - start < 1.5
    assert "--student" in out
