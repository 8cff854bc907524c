"""Which networks become a graph, and that others are refused."""

import subprocess
import sys

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from nnunet_kd.export.network import MeanOfFolds, quantise, spread, write_networks
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_networks import SMALL, image, small


class DependsOnTheImage(nn.Module):
    """Another graph for dark images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.mean() > -0.3 else x


class TwoOutputs(nn.Module):
    """As a network with deep supervision."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x, x[..., ::2, ::2]]


class NoOperator(nn.Module):
    """Something that ONNX has no operator for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.qr(x)[0] @ x


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_our_own_networks_become_a_graph(name, dim, tmp_path):
    network = small(name, dim, deep_supervision=False).eval()
    write_networks(network, 1, image(name, dim).shape[2:], tmp_path, name)  # compares the engines with PyTorch
    assert {f.name for f in tmp_path.iterdir()} == {"network.onnx", "network.xml", "network.bin"}


def test_folds_are_averaged():
    one, two = (nn.Conv2d(1, 3, 1) for _ in range(2))
    x = torch.randn(1, 1, 4, 4)
    assert np.allclose(MeanOfFolds([one, two])(x).detach(), (one(x) + two(x)).detach() / 2)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (DependsOnTheImage(), "graph depends on the image"),
        (TwoOutputs(), "not one output"),
        (NoOperator(), "cannot be exported"),
    ],
)
def test_what_is_no_fixed_graph_is_refused(network, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        write_networks(network, 1, (8, 8), tmp_path, "model")


@pytest.fixture
def eight_bits(tmp_path):
    """Two folds of a network in 8 bits, its patches, and the logits of full precision on them."""
    folds = [small("NoothoutUNet", 2, deep_supervision=False).eval() for _ in range(2)]
    folds[1].apply(folds[1].initialize)  # equal folds would become one in the graph
    network = MeanOfFolds(folds).eval()
    write_networks(network, 1, (16, 16), tmp_path, "model")
    patches = list(np.random.default_rng(0).normal(size=(8, 1, 1, 16, 16)).astype(np.float32))
    with torch.no_grad():
        logits = network(torch.from_numpy(np.concatenate(patches))).numpy()
    quantise(tmp_path, patches)
    return openvino.Core().read_model(tmp_path / "network.xml"), patches, logits


def test_all_convolutions_but_those_that_read_the_image_have_eight_bits(eight_bits):
    def operations(*kinds: str) -> list[openvino.Node]:
        return [o for o in eight_bits[0].get_ordered_ops() if o.get_type_name() in kinds]

    def weight_type(convolution: openvino.Node) -> str:
        node = convolution.input_value(1).get_node()
        while node.get_type_name() != "Constant":
            node = node.input_value(0).get_node()
        return node.get_element_type().get_type_name()

    found = [weight_type(o) for o in operations("Convolution")]
    assert found.count("f32") == 2  # one in each fold
    assert found.count("i8") == len(found) - 2 == 20
    inputs = [o.input_value(0).get_node().get_type_name() for o in operations("MVN", "Add")]
    assert "FakeQuantize" not in inputs


def test_eight_bits_stay_near_full_precision(eight_bits):
    network, patches, logits = eight_bits
    run = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = np.concatenate([run(p)[0] for p in patches])
    assert 0 < np.sqrt(np.mean((found - logits) ** 2)) < 0.07 * logits.std()  # 0.08 with all layers in 8 bits


def test_calibration_takes_patches_from_everywhere():
    assert spread(5, 300) == [0, 1, 2, 3, 4]
    found = spread(2700, 300)  # nine windows in each slice
    assert (len(found), found[0], found[-1]) == (300, 0, 2699)
    assert {i % 9 for i in found} == set(range(9))


def test_the_engine_loads_nothing_that_reports_over_the_network(tmp_path):
    write_networks(small("NoothoutUNet", 2, deep_supervision=False).eval(), 1, (16, 16), tmp_path, "model")
    program = (
        "import sys; from pathlib import Path; from nnunet_kd.export.runtime.engine import _openvino;"
        "_openvino(Path(sys.argv[1]), 'fp32', 1);"
        "print([m for m in sys.modules if m.startswith('openvino_telemetry')], 'openvino' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "network.xml")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[] True\n"
