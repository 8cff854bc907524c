"""Counted cost: FLOPs by hand, passes, several folders, and how models are named on the command line."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_kd.benchmark.model_spec import ModelSpec, parse_model
from nnunet_kd.planning.cost import count_models
from nnunet_kd.teachers.model import find_model
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_plan_command import make_model

# make_plans: patch 16^3, kernels of 3, features 16, 32, 64, one convolution per stage, 1 channel, 3 classes
MACS = (
    *(16**3 * 27 * 1 * 16, 8**3 * 27 * 16 * 32, 4**3 * 27 * 32 * 64),  # encoder
    *(8**3 * 64 * 32, 8**3 * 27 * (32 + 32) * 32),  # transposed: each output voxel has one tap, as kernel = stride
    *(16**3 * 32 * 16, 16**3 * 27 * (16 + 16) * 16),
    16**3 * 16 * 3,
)


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results" / "Dataset900_Toy"


def model(results: Path, name: str = "nnUNetTrainer__nnUNetPlans__3d_fullres", axes=(0, 1, 2), folds=(0, 1)) -> Path:
    folder = make_model(results, name, folds)
    content = {"network_weights": {}, "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": axes}
    for fold in folds:
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def count(name: str, folder: Path, folds=None, **options):
    return count_models(name, [find_model(folder, folds)], **options)


def flops(module: nn.Module, *shape: int) -> int:
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *shape))
    return counter.get_total_flops()


def test_flops_of_a_convolution_by_hand():
    # 5 x 7 outputs, each a sum over 2 channels and 9 taps, for 3 channels; 2 FLOPs each
    assert flops(nn.Conv2d(2, 3, 3, padding=1), 2, 5, 7) == 2 * 5 * 7 * 2 * 9 * 3


def test_flops_of_a_transposed_convolution_by_hand():
    # each of 5 x 7 inputs of 2 channels goes to 4 x 4 places of 3 channels: the input's size counts, not the output's
    assert flops(nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1), 2, 5, 7) == 2 * 5 * 7 * 2 * 16 * 3


def test_flops_of_a_whole_network_by_hand(results):
    cost = count("teacher", model(results))
    assert cost.macs_per_patch == sum(MACS)
    assert cost.flops_per_patch == 2 * sum(MACS)


def test_parameters_and_passes_of_folds_and_mirrors(results):
    folder = model(results)
    cost, one = count("two", folder), count("one", folder, (1,))
    weights = (27 * 16 + 16, 27 * 16 * 32 + 32, 27 * 32 * 64 + 64, 8 * 64 * 32 + 32, 27 * 64 * 32 + 32)
    weights += (8 * 32 * 16 + 16, 27 * 32 * 16 + 16)
    norms, heads = 2 * (16 + 32 + 64 + 32 + 16), (32 * 3 + 3) + (16 * 3 + 3)  # one head for each deep supervision
    assert one.parameters == sum(weights) + norms + heads
    assert (cost.networks, cost.parameters) == (2, 2 * one.parameters)
    assert (cost.windows, cost.mirrors, cost.passes_per_case) == (2 * 2 * 1, 8, 4 * 8 * 2)  # image 20 x 24 x 16
    assert cost.flops_per_case == 64 * cost.flops_per_patch == 2 * cost.macs_per_case
    assert (cost.patch_size, cost.input_channels, cost.configuration) == ((16, 16, 16), 1, "3d_fullres")


def test_mirroring_is_the_checkpoints_and_can_be_switched_off(results):
    student = model(results, "A__nnUNetPlans__3d_fullres", axes=None)
    assert count("student", student).mirrors == count("student", student, mirroring=True).mirrors == 1
    assert count("half", model(results, "B__nnUNetPlans__3d_fullres", axes=(1, 2))).mirrors == 4
    assert count("off", model(results, "C__nnUNetPlans__3d_fullres"), mirroring=False).mirrors == 1


def test_windows_of_a_given_image(results):
    assert count("x", model(results), image_shape=(16, 16, 8)).windows == 1
    assert count("x", model(results, "A__nnUNetPlans__3d_fullres"), image_shape=(32, 16, 8)).windows == 3
    flat = model(results, "A__nnUNetPlans__2d", axes=(0, 1))
    assert count("x", flat, image_shape=(5, 32, 16)).windows == 5 * 3
    assert count("x", flat).windows == 10 * 2 * 2  # median: 10 slices of 24 x 20


def test_folders_of_an_ensemble_add_up(results):
    a = model(results, "A__nnUNetPlans__3d_fullres")
    b = model(results, "B__nnUNetPlans__3d_fullres", folds=(0,))
    flat = model(results, "A__nnUNetPlans__2d", axes=(0, 1), folds=(0,))
    one = count("one", b)
    same = count_models("same", [find_model(a), find_model(b)])
    assert (same.networks, same.parameters) == (3, 3 * one.parameters)
    assert (same.passes_per_case, same.flops_per_case) == (3 * one.passes_per_case, 3 * one.flops_per_case)
    assert (same.flops_per_patch, same.windows, same.patch_size) == (one.flops_per_patch, 4, (16, 16, 16))
    mixed = count_models("mixed", [find_model(b), find_model(flat)])
    assert mixed.passes_per_case == 4 * 8 + 40 * 4
    assert (mixed.flops_per_patch, mixed.windows, mixed.patch_size, mixed.configuration) == (None,) * 4
    assert mixed.input_channels == 1


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("m=A__P__2d", [("A__P__2d", None)]),
        ("m=x/A__P__2d:0", [("x/A__P__2d", (0,))]),
        ("m=A:0,1", [("A", (0, 1))]),
        ("m=A:all,B", [("A", ("all",)), ("B", None)]),
        ("m=A:0,1,B:0,C:2,3", [("A", (0, 1)), ("B", (0,)), ("C", (2, 3))]),
        ("m=A,B:1", [("A", None), ("B", (1,))]),
        ("m=A=b:0", [("A=b", (0,))]),
        (r"m=C:\results\A:0", [(r"C:\results\A", (0,))]),
    ],
)
def test_models_on_the_command_line(text, folders):
    assert parse_model(text) == ModelSpec("m", tuple((Path(f), folds) for f, folds in folders))


def test_names_may_have_spaces():
    assert parse_model("student (seed 1)=A").name == "student (seed 1)"


@pytest.mark.parametrize("text", ["A__P__2d", "=A", "m=", "m=A,,B", "m=A,", "a/b=A", "a|b=A", "m=A:x", "m=A:0,all"])
def test_what_names_no_model(text):
    with pytest.raises(UserError, match=r"--model.*expected"):
        parse_model(text)


def test_missing_models_and_folds_are_named(results):
    with pytest.raises(UserError, match=r"--model m: .*no such model folder.*TRAINER__PLANS__CONFIGURATION"):
        ModelSpec("m", ((Path("nowhere"), None),)).find()
    folder = model(results)
    with pytest.raises(UserError, match=r"fold_7.*nnUNetv2_train Dataset900_Toy 3d_fullres 7 -tr nnUNetTrainer"):
        count("m", folder, (7,))
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match="not a readable nnU-Net checkpoint"):
        count("m", folder)
