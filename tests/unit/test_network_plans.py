"""``nnUNetv2_kd plan`` for the networks of the papers and of other libraries, on handwritten plans."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.cli import main
from nnunet_kd.networks.base import has_lower_outputs
from nnunet_kd.networks.family import families
from nnunet_kd.planning import latency
from nnunet_kd.planning.scaling import scale_blocks
from nnunet_kd.planning.student import (
    StudentSpec,
    format_student,
    parse_arguments,
    parse_student,
    student_architecture,
)
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_plan_command import DATASET, DATASET_JSON, make_plans, write_json
from tests.unit.test_student_architecture import count, make_architecture

OWN = [name for name, family in families().items() if family.features]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Preprocessed folder of a data set with plans of plain U-Nets; the 3D ones have thick slices."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / DATASET).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    folder = tmp_path / "preprocessed" / DATASET
    plans = make_plans()
    arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments["kernel_sizes"] = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    arguments["strides"] = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    write_json(folder / "nnUNetPlans.json", plans)
    write_json(folder / "dataset.json", DATASET_JSON)
    return folder


def plan(folder, *arguments: str) -> PlansManager:
    main(["plan", "-d", "900", "-o", "S", "--overwrite", *arguments])
    return PlansManager(json.loads((folder / "S.json").read_text()))


def refuse(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["plan", "-d", "900", "-o", "S", *arguments])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def build(architecture: dict, deep_supervision: bool = False) -> torch.nn.Module:
    arguments = architecture["arch_kwargs"], architecture["_kw_requires_import"]
    with torch.device("meta"):
        return get_network_from_plans(
            architecture["network_class_name"], *arguments, 1, 3, deep_supervision=deep_supervision
        )


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", OWN)
def test_plans_build_every_family_with_the_base_strides_and_kernels(name, dim):
    base = make_architecture("PlainConvUNet", dim)
    base["arch_kwargs"]["kernel_sizes"][1] = [1] + [3] * (dim - 1)
    base["arch_kwargs"]["strides"][1] = [1] + [2] * (dim - 1)
    before = deepcopy(base)
    architecture = json.loads(json.dumps(families()[name].architecture(base)))
    assert base == before
    kwargs = architecture["arch_kwargs"]
    if name != "dilated":
        stages = min(kwargs["n_stages"], 4)
        assert kwargs["strides"][:stages] == base["arch_kwargs"]["strides"][:stages]
        assert kwargs["kernel_sizes"][:stages] == base["arch_kwargs"]["kernel_sizes"][:stages]
        assert all(s == [1] * dim for s in kwargs["strides"][stages:])
    deep = has_lower_outputs(kwargs["strides"])
    assert deep == (name != "dilated")
    outputs = build(architecture, deep)(torch.zeros(2, 1, *[16] * dim, device="meta"))
    assert (outputs[0] if deep else outputs).shape == (2, 3, *[16] * dim)
    assert len(outputs) == len(kwargs["strides"]) - 1 if deep else True


def test_deep_supervision_needs_a_second_resolution():
    two, three = [[1, 1], [2, 2]], [[1, 1], [2, 2], [2, 2]]
    assert not has_lower_outputs(two)  # nnU-Net would divide 0 by 0
    assert has_lower_outputs(three)
    assert not has_lower_outputs([[1, 1]] * 8)


@pytest.mark.parametrize(
    "text", ["same", "enet", "width=0.25,depth=-1", "mobile-use-net,params=500000", "blocks=0.5,decoder=1"]
)
def test_specifications_are_read_as_they_are_written(text):
    assert format_student(parse_student(text)) == text


@pytest.mark.parametrize("text", ["enet,enet", "resnet50", "enet,width=0", "decoder=0", "blocks=x"])
def test_specifications_that_mean_nothing_are_refused(text):
    with pytest.raises(UserError, match="--student"):
        parse_student(text)


def test_blocks_and_decoder_of_nnunets_own_networks():
    kwargs = scale_blocks(make_architecture(), 0.5, 1)["arch_kwargs"]
    assert kwargs["n_conv_per_stage"] == [1, 1, 2, 2]  # halves of 1, 2, 3, 4, rounded up
    assert kwargs["n_conv_per_stage_decoder"] == [1, 1, 1]
    spec = parse_student("width=0.25,blocks=0.5,decoder=1,depth=-1")
    assert count(student_architecture(make_architecture(), spec, count)) < count(make_architecture()) / 16


def test_a_budget_bounds_every_family():
    for name in ("mobile-use-net", "enet"):
        spec = parse_student(f"{name},params=100k")
        assert count(student_architecture(make_architecture(), spec, count)) <= 100_000


def test_arguments_are_json_or_text():
    assert parse_arguments(["a=1", "b=[1, 2]", "c=text", "d=null"]) == {"a": 1, "b": [1, 2], "c": "text", "d": None}
    with pytest.raises(UserError, match="KEY=VALUE"):
        parse_arguments(["a"])


def test_a_planned_network_names_its_class_and_keeps_thick_slices(toy, capsys):
    cm = plan(toy, "-c", "3d_fullres", "--student", "enet", "--student-arg", "dropout=0.2").get_configuration(
        "3d_fullres"
    )
    assert cm.network_arch_class_name == "nnunet_kd.networks.ENet"
    assert list(cm.pool_op_kernel_sizes) == [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 1, 1]]
    assert cm.network_arch_init_kwargs["dropout"] == 0.2
    out = capsys.readouterr().out
    assert "need the package nnunet_kd" in out
    assert "-tr nnUNetTrainerKDEnsemble -p S" in out


def test_the_dilated_network_looks_at_one_plane_of_thick_slices_and_three_of_others(toy):
    plans = plan(toy, "-c", "3d_fullres", "3d_lowres", "--student", "dilated")
    planes = [plans.get_configuration(c).network_arch_init_kwargs["planes"] for c in ("3d_fullres", "3d_lowres")]
    assert planes == [[0], [0, 1, 2]]


def test_region_based_labels_reach_the_dilated_network():
    arguments = families()["dilated"].architecture(make_architecture(dim=3), regions=True)["arch_kwargs"]
    assert arguments["sigmoid"] is True


def test_a_patch_that_does_not_fit_is_refused_with_the_smallest_that_does(toy, capsys):
    arguments = ["-c", "2d", "--student", "use-net", "--patch_size"]
    error = refuse(capsys, *arguments, "18", "20")
    assert "cannot take patches of 18x20" in error
    assert "smallest that it can take is 8x8" in error  # 4x4 leaves one value to instance normalisation
    assert "--patch_size 20 20" in error
    assert "expected one number per axis" in refuse(capsys, *arguments, "20")
    error = refuse(capsys, "-c", "2d", "--student", "espnet", "--patch_size", "18", "20")  # a side output would not fit
    assert "--patch_size 20 20" in error
    assert plan(toy, *arguments, "20", "20").get_configuration("2d").patch_size == [20, 20]


class Dictionary(torch.nn.Module):
    """Stands for a library's network of fixed input that returns a dictionary."""

    def __init__(self, out_channels: int, channels: int = 1, classes: int | None = None):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, classes or out_channels, 1)

    def forward(self, x):
        return {"out": self.conv(x), "aux": self.conv(x)}


EXTERNAL = ("--student", "external", "--student-arg", "input_argument=null")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--student", "enet", "--student-arg", "width=3"], "ENet has no such argument; there are"),
        (["--student", "same", "--student-arg", "dropout=1"], "PlainConvUNet has no such argument"),
        (["--student", "enet,depth=-1"], "cannot be changed by depth"),
        (["--student", "enet,decoder=2"], "cannot be changed by decoder"),
        (["--student", "external"], "--student-arg network="),
        (["--student", "external", "--student-arg", "network=os.system"], "NNUNET_KD_ALLOWED_PACKAGES"),
        (["--student", "external", "--student-arg", "network=no_such.Net"], "nnunet-kd[zoo]"),
        (
            ["--student", "enet", "--student-arg", "features_per_stage=[0,8]"],
            "cannot be built from its arguments (features_per_stage has 2",
        ),
        (["--params", "many"], "--params many"),
        (["--latency-budget", "0"], "greater than 0"),
        (["--latency-budget", "inf"], "greater than 0"),
        (["--student", "decoder=99999"], "n_conv_per_stage_decoder: found 99999"),
        (["--student", "blocks=99999"], "n_conv_per_stage: found 99999"),
        (["--student-arg", "n_stages=-1"], "n_stages: found -1"),
        (["--student-arg", "n_stages=2"], "PlainConvUNet cannot be built from its arguments"),
        (["--student-arg", "features_per_stage=[1000000,1000000,1000000]"], "parameters, more than 1e+10"),
        (["--student-arg", "dropout_op=nope"], "'nope' is no dotted name of a class"),
        (["--student-arg", "dropout_op=torch.nn.functional.dropout"], "expected a torch.nn.Module or a part of one"),
        (["-o", "x" * 300], "has 300 letters, expected at most 180"),
        (["-p", "x" * 300], "-p: found 'xxx"),
        ([*EXTERNAL, f"network={__name__}.Dictionary"], "returns out, aux; name the logits with output=NAME"),
        ([*EXTERNAL, f"network={__name__}.Dictionary", "output=aux", "channels=3"], "images with 1 channels, with"),
        ([*EXTERNAL, f"network={__name__}.Dictionary", "output=aux", "classes=9"], "not one channel for each of 3"),
        (["--student", "width=0.5", "--latency-budget", "5"], "leave both out"),
        (["--weights", "nowhere.pth"], "weights are not downloaded"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_no_file(toy, capsys, monkeypatch, arguments, sentence):
    monkeypatch.setenv("NNUNET_KD_ALLOWED_PACKAGES", "no_such,tests")
    before = sorted(toy.iterdir())
    assert sentence in refuse(capsys, "-c", "2d", *arguments)
    assert sorted(toy.iterdir()) == before


def test_a_budget_of_latency_is_for_one_configuration(toy, capsys):
    assert "name it with -c" in refuse(capsys, "--latency-budget", "5")


def test_latency_search_takes_the_largest_that_is_fast_enough():
    def run(spec: StudentSpec) -> latency.Timed:
        """Time and size of an imaginary network."""
        if spec.removed_stages == 2:
            raise UserError("too few stages")
        parameters = round(1e6 * spec.width**2) >> 2 * spec.removed_stages
        return latency.Timed(spec, 100 * spec.width / (1 + spec.removed_stages), parameters)

    (spec, *_), timed = latency.search(StudentSpec(), 40, run, "here")
    assert spec == StudentSpec(width=0.375)  # 37.5 ms, 141 k; a stage less: width 0.75, 37.5 ms, 140.6 k
    assert all(t.latency_ms > 40 for t in timed if t.spec.width > 0.75)
    (spec, *_), _ = latency.search(StudentSpec(max_parameters=5000), 40, run, "here")
    assert run(spec).parameters <= 5000
    with pytest.raises(UserError, match="nothing fits into 1 ms; the fastest were ") as error:
        latency.search(StudentSpec(), 1, run, "here")
    fastest = (
        "width=0.03125,depth=-1 with 1.56 ms and 244 parameters",
        "width=0.03125 with 3.12 ms and 977 parameters",
    )
    assert str(error.value).endswith(f"{', '.join(fastest)}.")  # these two were timed


def test_latency_budget_is_kept_by_a_network_that_is_built_and_timed(toy, capsys):
    plans = plan(toy, "-c", "2d", "--latency-budget", "10000", "--params", "20k")
    out = capsys.readouterr().out
    assert "Candidates timed on cpu" in out
    assert plans.plans["kd"]["student"]["architecture"].startswith("width=")
    kwargs = plans.get_configuration("2d").network_arch_init_kwargs
    architecture = plans.get_configuration("2d").configuration["architecture"]
    assert sum(p.numel() for p in build(architecture).parameters()) <= 20_000, kwargs


def test_a_checkpoint_of_nnunet_is_a_file_of_weights_and_an_empty_file_is_none(toy, capsys, tmp_path):
    checkpoint = {
        "network_weights": {"encoder.stages.0.0.convs.0.conv.bias": torch.full((16,), 0.5)},
        "logging": {"mean_fg_dice": [np.float64(0.5)]},
    }
    torch.save(checkpoint, tmp_path / "checkpoint_final.pth")
    plan(toy, "-c", "2d", "-o", "S", "--weights", str(tmp_path / "checkpoint_final.pth"))
    state = torch.load(toy / "S_2d_initial.pth", weights_only=True)["network_weights"]
    assert state["encoder.stages.0.0.convs.0.conv.bias"].unique().tolist() == [0.5]
    (tmp_path / "empty.pth").touch()
    error = refuse(capsys, "-c", "2d", "-o", "T", "--weights", str(tmp_path / "empty.pth"))
    assert "empty.pth: not a readable file of weights (it is damaged" in error


def test_local_weights_become_what_nnunet_starts_from(toy, capsys, tmp_path):
    arguments = ["-c", "2d", "--student", "noothout-unet,width=0.25"]
    weights = {"encoder.0.1.0.0.weight": torch.full((8, 1, 3, 3), 0.5)}
    torch.save(weights, tmp_path / "w.pth")
    plan(toy, *arguments, "--weights", str(tmp_path / "w.pth"))
    out = capsys.readouterr().out
    assert f"-pretrained_weights {toy / 'S_2d_initial.pth'}" in out
    state = torch.load(toy / "S_2d_initial.pth", weights_only=True)["network_weights"]
    assert state["encoder.0.1.0.0.weight"].unique().tolist() == [0.5]


class TestZoo:
    """Networks of other libraries; nothing is downloaded."""

    def test_segmentation_models_pytorch(self, toy, capsys):
        pytest.importorskip("segmentation_models_pytorch")
        arguments = ["-c", "2d", "--student", "pspnet", "--role", "teacher", "--student-arg", "encoder_name=resnet18"]
        error = refuse(capsys, *arguments, "--patch_size", "12", "12")
        assert "--patch_size" in error
        cm = plan(toy, *arguments, "--patch_size", "32", "32").get_configuration("2d")
        assert cm.network_arch_init_kwargs["network_kwargs"] == {"encoder_name": "resnet18"}

    def test_two_dimensional_networks_are_refused_in_3d(self, toy, capsys):
        pytest.importorskip("segmentation_models_pytorch")
        assert "is a 2D network" in refuse(capsys, "-c", "3d_fullres", "--student", "unetplusplus")

    def test_monai(self, toy):
        pytest.importorskip("monai")
        arguments = ["--student", "external", "--student-arg", "network=monai.networks.nets.SegResNet"]
        cm = plan(toy, "-c", "3d_lowres", *arguments, "init_filters=8").get_configuration("3d_lowres")
        assert cm.network_arch_init_kwargs["network_kwargs"] == {"init_filters": 8, "spatial_dims": 3}
