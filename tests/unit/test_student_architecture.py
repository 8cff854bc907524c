"""Scaled architectures: pure functions, and networks that nnU-Net builds from their result."""

from copy import deepcopy

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_kd.planning.scaling import fit_to_budget, remove_stages, scale_width
from nnunet_kd.planning.student import StudentSpec, parse_student, student_architecture
from nnunet_kd.utilities.errors import UserError


def make_architecture(name: str = "PlainConvUNet", dim: int = 2) -> dict:
    blocks = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": 4,
            "features_per_stage": [32, 64, 128, 160],
            "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
            "kernel_sizes": [[1] * dim, [3] * dim, [3] * dim, [3] * dim],
            "strides": [[1] * dim, [2] * dim, [2] * dim, [1] + [2] * (dim - 1)],
            blocks: [1, 2, 3, 4],
            "n_conv_per_stage_decoder": [3, 2, 1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def build(architecture: dict) -> torch.nn.Module:
    arguments = architecture["arch_kwargs"], architecture["_kw_requires_import"]
    with torch.device("meta"):
        return get_network_from_plans(architecture["network_class_name"], *arguments, 1, 2, deep_supervision=False)


def count(architecture: dict) -> int:
    return sum(p.numel() for p in build(architecture).parameters())


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("same", StudentSpec()),
        ("width=0.25", StudentSpec(width=0.25)),
        ("width=.5, depth=-2", StudentSpec(width=0.5, removed_stages=2)),
        ("params=500k", StudentSpec(max_parameters=500_000)),
        ("params=1.5M,depth=-1", StudentSpec(max_parameters=1_500_000, removed_stages=1)),
        ("params=350000", StudentSpec(max_parameters=350_000)),
    ],
)
def test_parse_student(text, spec):
    assert parse_student(text) == spec


@pytest.mark.parametrize(
    "text", ["", "wide=2", "width", "width=0", "width=-1", "depth=1", "depth=-1.5", "params=5g", "width=1,width=2"]
)
def test_parse_student_refuses(text):
    with pytest.raises(UserError, match="--student"):
        parse_student(text)


def test_width_and_budget_exclude_each_other():
    with pytest.raises(UserError, match="one of the two"):
        parse_student("width=0.5,params=1M")


def test_width_gives_multiples_of_eight_and_at_least_eight():
    features = scale_width(make_architecture(), 0.2)["arch_kwargs"]["features_per_stage"]
    assert features == [8, 16, 24, 32]  # 6.4, 12.8, 25.6, 32


def test_width_of_at_most_one_never_widens():
    architecture = make_architecture()
    architecture["arch_kwargs"]["features_per_stage"] = [4, 14, 30, 60]
    assert scale_width(architecture, 1)["arch_kwargs"]["features_per_stage"] == [4, 14, 30, 60]
    assert scale_width(architecture, 0.99)["arch_kwargs"]["features_per_stage"] == [4, 14, 30, 56]  # 16 and 32 are cut


def test_depth_removes_the_lowest_resolution_everywhere():
    kwargs = remove_stages(make_architecture(), 1)["arch_kwargs"]
    assert kwargs["n_stages"] == 3
    assert kwargs["features_per_stage"] == [32, 64, 128]
    assert kwargs["kernel_sizes"] == [[1, 1], [3, 3], [3, 3]]
    assert kwargs["strides"] == [[1, 1], [2, 2], [2, 2]]
    assert kwargs["n_conv_per_stage"] == [1, 2, 3]
    assert kwargs["n_conv_per_stage_decoder"] == [2, 1]  # listed from the lowest resolution


def test_two_stages_must_stay():
    assert remove_stages(make_architecture(), 2)["arch_kwargs"]["n_stages"] == 2
    with pytest.raises(UserError, match="4 stages"):
        remove_stages(make_architecture(), 3)


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("dim", [2, 3])
def test_scaled_networks_build_and_keep_the_image_size(name, dim):
    spec = parse_student("width=0.25,depth=-1")
    network = build(student_architecture(make_architecture(name, dim), spec, count))
    size = (1, 1, *[16] * dim)
    assert network(torch.zeros(size, device="meta")).shape == (1, 2, *size[2:])


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_budget_is_used_up_but_not_exceeded(name):
    architecture, budget = make_architecture(name), 100_000
    fitted = fit_to_budget(architecture, budget, count)
    assert count(fitted) <= budget
    last = fitted["arch_kwargs"]["features_per_stage"][-1]
    assert count(scale_width(architecture, (last + 8) / 160)) > budget


def test_generous_budget_changes_nothing():
    assert fit_to_budget(make_architecture(), 10**9, count) == make_architecture()


def test_impossible_budget_names_the_smallest_network():
    smallest = count(scale_width(make_architecture(), 0.05))
    with pytest.raises(UserError, match=f"has {smallest} parameters"):
        fit_to_budget(make_architecture(), smallest - 1, count)
    assert count(fit_to_budget(make_architecture(), smallest, count)) == smallest


def test_unknown_class_is_refused_unless_same():
    architecture = make_architecture()
    architecture["network_class_name"] = "my.networks.Mamba"
    assert student_architecture(architecture, parse_student("same"), count) == architecture
    with pytest.raises(UserError, match=r"my\.networks\.Mamba"):
        student_architecture(architecture, parse_student("width=0.5"), count)


def test_input_is_not_changed():
    architecture = make_architecture()
    before = deepcopy(architecture)
    student_architecture(architecture, parse_student("width=0.5,depth=-1"), count)["arch_kwargs"]["strides"][0][0] = 7
    assert architecture == before
