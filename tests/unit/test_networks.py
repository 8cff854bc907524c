"""Networks of the papers: sizes as published, and what nnU-Net expects of any network."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_kd import networks
from nnunet_kd.networks import DilatedNet, ENet, ExternalNetwork, NoothoutUNet, ResidualUSENet
from nnunet_kd.networks.enet import max_unpool
from nnunet_kd.networks.external import load_weights
from nnunet_kd.utilities.errors import UserError

# name: narrow features for each resolution, other arguments
SMALL = {
    "ResidualUSENet": ([8, 8, 8], {"n_blocks_per_stage": [1, 1, 2], "upsampling": "interpolation"}),
    "MobileResidualUSENet": ([8, 8, 8], {"n_blocks_per_stage": [1, 1, 2]}),
    "NoothoutUNet": ([4, 8, 8], {}),
    "NoothoutResNet": ([4, 8, 8], {"n_blocks": 1}),
    "ENet": ([0, 8, 8, 8], {}),
    "ESPNet": ([0, 8, 10, 10], {"n_blocks_per_stage": [0, 0, 1, 1]}),
    "MobileNetV2Seg": ([0, 8, 8, 16], {}),
    "ResNet18Seg": ([0, 8, 8, 8, 8, 8], {"n_blocks_per_stage": [0, 0, 1, 1, 1, 1]}),
    "RAUNet": ([0, 8, 8, 8, 8, 8], {"n_blocks_per_stage": [0, 0, 1, 1, 1, 1]}),
    "DilatedNet": ([4, 4], {"dilations": [1, 2]}),
}
GOLDEN = Path(__file__).parents[1] / "golden" / "networks.json"
WITH_SIDE_OUTPUTS = [name for name in SMALL if name != "DilatedNet"]


def arguments(features: list, dim: int, **more) -> dict:
    """Plan arguments; strides 2 below the first stage."""
    n = len(features)
    return {
        "input_channels": 1,
        "num_classes": 2,
        "n_stages": n,
        "features_per_stage": features,
        "conv_op": nn.Conv2d if dim == 2 else nn.Conv3d,
        "kernel_sizes": [[3] * dim] * n,
        "strides": [[1] * dim] + [[2] * dim] * (n - 1),
    } | more


def small(name: str, dim: int = 2, **more) -> nn.Module:
    """A narrow network; in 3D the first axis is strided and convolved later than the others."""
    torch.manual_seed(0)
    features, own = SMALL[name]
    given = arguments(features, dim, **own)
    if name == "DilatedNet":
        given |= {"strides": [[1] * dim] * 2, "kernel_sizes": [[3, 3]] * 2}
    elif dim == 3:
        given["kernel_sizes"] = [[1, 3, 3], [1, 3, 3], *given["kernel_sizes"][2:]]
        given["strides"] = [[1, 1, 1], [1, 2, 2], *given["strides"][2:]]
    network = getattr(networks, name)(**given | more)
    network.apply(network.initialize)
    return network


def image(network_name: str, dim: int, batch: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    size = 64 if len(SMALL[network_name][0]) == 6 else 16
    return torch.randn(batch, 1, *([16] if dim == 3 else []), size, size)


def size_of(cls: type, shape: tuple, **given) -> tuple[int, float]:
    """Parameters without those of side outputs, and 1e9 FLOPs (2 per multiply-add) of one image."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network = cls(**given).eval()
        network(torch.zeros(1, given["input_channels"], *shape))
    side = sum(p.numel() for layer in list(network.decoder.seg_layers)[:-1] for p in layer.parameters())
    if cls.__name__ in ("MobileNetV2Seg", "ResNet18Seg"):  # their scores are part of the one output
        side = 0
    return sum(p.numel() for p in network.parameters()) - side, counter.get_total_flops() / 1e9


@pytest.mark.parametrize(
    ("name", "upsampling", "parameters", "gmac"),
    [
        ("MobileResidualUSENet", "transposed", 5.23e6, 14.5),
        ("ResidualUSENet", "transposed", 92.06e6, 203.6),
        ("ResidualUSENet", "interpolation", 92.06e6, 219.5),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_residual_use_nets_are_those_of_choi_2022_within_one_percent(name, upsampling, parameters, gmac):
    given = arguments([32, 64, 128, 256, 512], 3, n_blocks_per_stage=[1, 2, 3, 4, 5], upsampling=upsampling)
    counted, gflop = size_of(getattr(networks, name), (96, 64, 96), **given | {"num_classes": 14})
    assert counted == pytest.approx(parameters, rel=0.01)
    assert gflop / 2 == pytest.approx(gmac, rel=0.01)


def test_noothout_2022_within_two_percent():
    unet, _ = size_of(NoothoutUNet, [8] * 3, **arguments([32, 64, 128, 256], 3, num_classes=5))
    resnet, _ = size_of(networks.NoothoutResNet, [8] * 3, **arguments([32, 64, 128], 3, num_classes=5))
    dilated, _ = size_of(DilatedNet, [8] * 2, **arguments([32] * 8, 2, num_classes=5, strides=[1] * 8))
    assert unet == pytest.approx(5.64e6, rel=0.02)
    assert resnet == pytest.approx(5.86e6, rel=0.02)
    assert round(dilated / 1e6, 2) == 0.09  # published with one significant digit
    assert 2 * (unet + resnet + dilated) == pytest.approx(23.17e6, rel=0.02)  # the diverse ensemble


@pytest.mark.parametrize(
    ("name", "features", "parameters", "gflop"),
    [
        ("ENet", [0, 16, 64, 128], 0.35376e6, (2.03, 2.2)),
        ("ESPNet", [0, 16, 64, 128], 0.18372e6, (1.23, 1.27)),
        ("MobileNetV2Seg", [0, 24, 96, 320], 2.23e6, (19.1, 19.84)),
        ("ResNet18Seg", [0, 64, 64, 128, 256, 512], 11.2e6, (10.66, 10.66)),
        ("RAUNet", [0, 64, 64, 128, 256, 512], 22.1e6, (24.81, 24.81)),
    ],
)
def test_qin_2021_and_ben_loussaief_2023(name, features, parameters, gflop):
    """Parameters within 2 %. The published FLOPs are 2 per multiply-add, of an image repeated to three channels."""
    cls = getattr(networks, name)
    assert size_of(cls, (384, 384), **arguments(features, 2))[0] == pytest.approx(parameters, rel=0.02)
    counted = size_of(cls, (384, 384), **arguments(features, 2) | {"input_channels": 3})[1]
    tolerance = 0.08 if name == "RAUNet" else 0.02  # its last convolutions are larger than the published ones
    assert gflop[0] * (1 - tolerance) <= counted <= gflop[1] * (1 + tolerance)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_outputs_gradients_and_memory_estimate(name, dim):
    """What nnU-Net's trainers expect: one output per stride but the last, and no parameter without gradient."""
    x, deep = image(name, dim), name in WITH_SIDE_OUTPUTS
    network = small(name, dim, deep_supervision=deep)
    outputs = network(x)
    outputs = outputs if deep else [outputs]
    total = torch.ones(dim, dtype=torch.int)
    strides = torch.tensor([[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]])[:, 3 - dim :]
    assert len(outputs) == (len(SMALL[name][0]) - 1 if deep else 1)
    for output, stride in zip(outputs, strides, strict=False):
        total = total * stride
        assert output.shape == (2, 2, *(s // int(t) for s, t in zip(x.shape[2:], total, strict=True)))
    torch.stack([(o * torch.linspace(-1, 1, o.numel()).view_as(o)).sum() for o in outputs]).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    network.decoder.deep_supervision = False
    assert network.eval()(x).shape == (2, 2, *x.shape[2:])
    assert network.compute_conv_feature_map_size(x.shape[2:]) > 2 * x[0].numel()


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_an_image_does_not_see_the_others_of_its_batch(name, dim):
    network, x = small(name, dim).eval(), image(name, dim)
    with torch.no_grad():
        torch.testing.assert_close(network(x)[:1], network(x[:1]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_compiled_networks_compute_the_same_and_leave_their_input_alone(name):
    network, x = small(name).eval(), image(name, 2)
    before = x.clone()
    with torch.no_grad():
        compiled = torch.compile(network, backend="eager", fullgraph=True)(x)
        torch.testing.assert_close(compiled, network(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", WITH_SIDE_OUTPUTS)
def test_without_deep_supervision_nothing_trainable_is_left_out(name):
    """DistributedDataParallel fails on parameters that get no gradient."""
    network = small(name)
    output = network(image(name, 2))
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


def test_checkpoints_load_whether_deep_supervision_is_on_or_off():
    for name in WITH_SIDE_OUTPUTS:
        trained = small(name, deep_supervision=True)
        keys = small(name, deep_supervision=False).load_state_dict(trained.state_dict(), strict=False)
        assert (keys.missing_keys, keys.unexpected_keys) == ([], [])


def values_of(name: str, dim: int) -> dict:
    """Tensors of a seeded network (hash of names and shapes), and mean absolute outputs in training and evaluation."""
    network = small(name, dim, deep_supervision=name in WITH_SIDE_OUTPUTS)
    tensors = "\n".join(f"{key} {tuple(value.shape)}" for key, value in network.state_dict().items())
    x, means = image(name, dim), {}
    for mode in ("train", "eval"):
        torch.manual_seed(2)
        with torch.no_grad():
            outputs = getattr(network, mode)()(x)
        outputs = outputs if name in WITH_SIDE_OUTPUTS else [outputs]
        means[mode] = [round(output.abs().mean().item(), 6) for output in outputs]
    return {"tensors": sha256(tensors.encode()).hexdigest()[:16], **means}


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_weights_of_before_load_and_seeds_give_the_same_network(name, dim):
    """Golden values of 0.1.0; a change of them would make checkpoints useless, or trainings not repeatable."""
    expected = json.loads(GOLDEN.read_text())[f"{name} {dim}d"]
    values = values_of(name, dim)
    assert values["tensors"] == expected["tensors"]
    for mode in ("train", "eval"):
        assert values[mode] == pytest.approx(expected[mode], rel=1e-3, abs=1e-5)


def test_stages_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="strides has 2 entries, but n_stages is 4"):
        ENet(**arguments([0, 8, 8, 8], 2) | {"strides": [1, 2]})
    with pytest.raises(ValueError, match="n_stages is 3, but this network has 4"):
        ENet(**arguments([0, 8, 8], 2))
    with pytest.raises(ValueError, match="upsampling is 'nearest'"):
        ResidualUSENet(**arguments([8, 8], 2, n_blocks_per_stage=[1, 1], upsampling="nearest"))


def test_max_unpool_is_torchs():
    x = torch.randn(2, 3, 4, 6, 8)
    pooled, indices = nn.functional.max_pool3d(x, (1, 2, 2), return_indices=True)
    assert torch.equal(max_unpool(pooled, indices, x.shape[2:]), nn.MaxUnpool3d((1, 2, 2))(pooled, indices))


class TestThreePlanes:
    """The dilated network on volumes (Noothout et al. 2022, Section 4.1)."""

    x = torch.randn(1, 1, 4, 5, 6, generator=torch.Generator().manual_seed(2))

    def slices(self, network: DilatedNet, axis: int) -> torch.Tensor:
        """Logits slice by slice, with the same 2D network."""
        flat = DilatedNet(**arguments([4, 4], 2, dilations=[1, 2], strides=[1, 1])).eval()
        flat.load_state_dict(network.state_dict())
        return torch.stack([flat(s) for s in self.x.unbind(axis + 2)], axis + 2)

    def test_evaluation_averages_the_probabilities_of_all_slices_of_three_planes(self):
        network = small("DilatedNet", 3).eval()
        expected = sum(self.slices(network, axis).softmax(1) for axis in range(3)) / 3
        torch.testing.assert_close(network(self.x).softmax(1), expected)

    def test_regions_average_their_sigmoids(self):
        network = small("DilatedNet", 3, sigmoid=True).eval()
        expected = sum(self.slices(network, axis).sigmoid() for axis in range(3)) / 3
        torch.testing.assert_close(network(self.x).sigmoid(), expected, atol=1e-5, rtol=1e-5)

    def test_training_takes_one_plane_after_the_other(self):
        network = small("DilatedNet", 3, dropout=0.0)
        network.train().decoder.eval()  # no batch statistics, to compare
        seen = [network(self.x) for _ in range(3)]
        for axis in range(3):
            expected = self.slices(network, axis)
            assert sum(torch.allclose(s, expected, atol=1e-5) for s in seen) == 1

    def test_thick_slices_use_one_plane(self):
        network = small("DilatedNet", 3, planes=[0]).eval()
        torch.testing.assert_close(network(self.x), self.slices(network, 0))

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            ({"deep_supervision": True}, "nnUNetTrainerNoDeepSupervision"),
            ({"strides": [1, 2]}, "all strides must be 1"),
            ({"planes": [3]}, "expected some of 0, 1, 2"),
        ],
    )
    def test_what_it_cannot_do_is_refused(self, more, sentence):
        with pytest.raises(ValueError, match=sentence):
            small("DilatedNet", 3, **more)


class TestExternal:
    """Networks of other libraries."""

    @pytest.fixture(autouse=True)
    def allow_this_package(self, monkeypatch):
        monkeypatch.setenv("NNUNET_KD_ALLOWED_PACKAGES", "tests, not_installed")

    def make(self, **more) -> ExternalNetwork:
        given = {"network": f"{__name__}.Half", "classes_argument": "classes", "network_kwargs": {"width": 3}}
        return ExternalNetwork(1, 2, **given | more)

    def test_it_gets_its_own_names_and_its_output_the_size_of_the_image(self):
        network = self.make(repeat_input=3)
        assert network.network.conv.weight.shape == (2, 3, 3, 3)
        assert network(torch.randn(1, 1, 8, 6)).shape == (1, 2, 8, 6)
        assert network.network.weights is None  # a default that would download is turned off

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            ({"network": "os.system"}, "NNUNET_KD_ALLOWED_PACKAGES"),
            ({"network": "Half"}, "no dotted name"),
            ({"network": "torch.nn.functional.relu"}, "neither a torch.nn.Module nor"),
            ({"network_kwargs": {"weights": "imagenet"}}, "asks for a download"),
            ({"deep_supervision": True}, "one output"),
        ],
    )
    def test_what_is_no_network_or_would_download_is_refused(self, more, sentence):
        with pytest.raises(ValueError, match=sentence):
            self.make(**more)

    def test_a_dictionary_needs_the_name_of_the_logits(self):
        network = self.make()
        network.network = nn.Sequential(network.network, Named())
        with pytest.raises(ValueError, match="returns out, aux; name the logits with output=NAME"):
            network(torch.randn(1, 1, 8, 6))
        network.output = "aux"
        assert network(torch.randn(1, 1, 8, 6)).shape == (1, 2, 8, 6)

    def test_a_library_that_is_not_there_is_named(self):
        with pytest.raises(ImportError, match="not_installed"):
            self.make(network="not_installed.Net")

    def test_local_weights_are_loaded_where_they_fit(self, tmp_path):
        network, file = self.make(), tmp_path / "w.pth"
        weights = {"module.conv.weight": torch.ones(2, 1, 3, 3), "module.conv.bias": torch.ones(5)}
        torch.save({"state_dict": weights}, file)
        assert load_weights(network, file) == (1, 2)
        assert network.network.conv.weight.unique().tolist() == [1]

    def test_files_with_code_or_of_another_network_are_refused(self, tmp_path):
        for content, error, sentence in (
            (nn.Linear(2, 2), UserError, r"it holds torch\.nn\.modules\.linear\.Linear"),
            ({"a": torch.ones(1)}, ValueError, "none of its 1"),
        ):
            torch.save(content, tmp_path / "w.pth")
            with pytest.raises(error, match=sentence):
                load_weights(self.make(), tmp_path / "w.pth")


class Named(nn.Module):
    """Returns a dictionary, as networks of torchvision do."""

    def forward(self, x):
        return {"out": x, "aux": x}


class Half(nn.Module):
    """Stands for a library's network: own names of arguments, half the resolution."""

    def __init__(self, in_channels: int, classes: int, width: int = 1, weights: str | None = "imagenet"):
        super().__init__()
        self.weights = weights
        self.conv = nn.Conv2d(in_channels, classes, width, 2, 1)

    def forward(self, x):
        return self.conv(x)


def test_depth_of_a_network_is_free_where_the_paper_repeats_itself():
    assert NoothoutUNet(**arguments([4, 8], 3))(torch.randn(2, 1, 4, 4, 4)).shape == (2, 2, 4, 4, 4)
