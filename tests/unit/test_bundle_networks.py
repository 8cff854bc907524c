"""Which networks become a graph, and that others are refused."""

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_kd.export.network import MeanOfFolds, write_networks
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
