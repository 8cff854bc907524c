"""Named features: right tensors, also compiled, under autocast and DDP; nothing is kept, nothing grows."""

import gc
import weakref

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import distributed as dist
from torch import nn

from nnunet_kd.losses.feature_distillation import FeaturePair
from nnunet_kd.teachers.feature_taps import FeatureTaps, choose_pairs, feature_names, find_layer, measure_features
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_networks import SMALL, small
from tests.unit.test_networks import image as network_image

NAMES = ["encoder.0", "bottleneck", "decoder.1"]


def unet(dimensions=2, cls=PlainConvUNet, stages=3, width=4):
    conv, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dimensions]
    torch.manual_seed(0)
    return cls(
        1, stages, [width * 2**i for i in range(stages)], conv, 3, [1] + [2] * (stages - 1), 1, 2, 1, norm_op=norm,
        norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip


def image(dimensions=2):
    return torch.randn(2, 1, *[8] * dimensions, generator=torch.Generator().manual_seed(1))


def record(taps, network, x):
    with taps.recording():
        output = network(x)
    return output, taps.pop()


@pytest.mark.parametrize("cls", [PlainConvUNet, ResidualEncoderUNet])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_names_and_shapes_of_nnunets_networks(cls, dimensions):
    network = unet(dimensions, cls)
    assert list(feature_names(network)) == ["encoder.0", "encoder.1", "encoder.2", "decoder.0", "decoder.1"]
    shapes = measure_features(network, (1, *[8] * dimensions), [*feature_names(network), "bottleneck"])
    assert shapes["encoder.0"] == shapes["decoder.1"] == (4, *[8] * dimensions)
    assert shapes["encoder.2"] == shapes["bottleneck"] == (16, *[2] * dimensions)
    assert shapes["decoder.0"] == (8, *[4] * dimensions)
    assert network.training, "measuring must restore the mode"
    assert not any(m._forward_hooks for m in network.modules()), "measuring must leave no hooks"
    with torch.device("meta"):
        assert measure_features(unet(dimensions, cls), (1, *[8] * dimensions), ["decoder.0"])["decoder.0"][0] == 8


def test_features_are_what_the_layers_return():
    network, x = unet(), image()
    taps = FeatureTaps(network, NAMES)
    _, (first, bottleneck, last) = record(taps, network, x)
    skips = network.encoder(x)
    torch.testing.assert_close(first, skips[0])
    torch.testing.assert_close(bottleneck, skips[-1])
    torch.testing.assert_close(network.decoder.seg_layers[-1](last), network(x)[0])


def test_dotted_paths_and_names_of_a_networks_own():
    class Own(nn.Sequential):
        feature_names = {"encoder.0": "0", "decoder.0": "2"}  # noqa: RUF012

    network = Own(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    shapes = measure_features(network, (1, 4, 4), ["encoder.0", "1", "bottleneck"])
    assert shapes == {"encoder.0": (3, 4, 4), "1": (3, 4, 4), "bottleneck": (3, 4, 4)}
    assert feature_names(nn.Sequential(nn.Conv2d(1, 1, 1))) == {}


def test_a_feature_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(UserError, match=r"encoder\.9.*decoder\.1, bottleneck"):
        FeatureTaps(unet(), ["encoder.9"])
    with pytest.raises(UserError, match=r"'encoder': the layer returned list"):
        measure_features(unet(), (1, 8, 8), ["encoder"])
    with pytest.raises(UserError, match=r"cannot take a patch of \(7, 8\)"):
        measure_features(unet(), (1, 7, 8), ["encoder.0"])


def test_outside_of_recording_nothing_is_kept():
    network = unet()
    taps = FeatureTaps(network, NAMES)
    network(image())
    with pytest.raises(UserError, match="did not run"):
        taps.pop()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_compiled_graph_gives_the_same_features_and_gradients(backend):
    network, x = unet(), image()
    taps = FeatureTaps(network, NAMES)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend=backend, fullgraph=True)

    def features_and_gradients(call):
        network.zero_grad()
        output, features = record(taps, call, x)
        sum(f.square().mean() for f in (*features, *output)).backward()
        return [f.detach() for f in features], [p.grad.clone() for p in network.parameters()]

    for _ in range(2):
        for ours, plain in zip(features_and_gradients(compiled), features_and_gradients(network), strict=True):
            torch.testing.assert_close(ours, plain)
    with torch.no_grad():
        compiled(x)
    with pytest.raises(UserError, match="did not run"):
        taps.pop()
    network.decoder.deep_supervision = False
    output, features = record(taps, compiled, x)
    assert isinstance(output, torch.Tensor)
    assert len(features) == 3


def test_under_autocast_features_have_its_precision():
    network = unet()
    taps = FeatureTaps(network, ["encoder.1"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, (feature,) = record(taps, network, image())
    assert feature.dtype == torch.bfloat16
    assert feature.requires_grad


@pytest.mark.parametrize("compiled", [False, True])
def test_features_reach_the_loss_through_ddp_for_many_steps(compiled, tmp_path):
    """One process is enough for DDP's bookkeeping: a parameter that a step misses makes the next one fail."""
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'store'}")
    try:
        network = unet()
        taps = FeatureTaps(network, NAMES)
        torch._dynamo.reset()
        inner = torch.compile(network, backend="eager") if compiled else network
        wrapped = nn.parallel.DistributedDataParallel(inner)
        for _ in range(3):
            network.zero_grad()
            output, features = record(taps, wrapped, image())
            sum(f.square().mean() for f in (*features, *output)).backward()
            assert all(p.grad is not None for p in network.parameters())
    finally:
        dist.destroy_process_group()


def test_features_die_with_their_last_use_without_the_garbage_collector():
    network = unet()
    taps = FeatureTaps(network, NAMES)
    gc.collect()
    gc.disable()
    try:
        _, features = record(taps, network, image())
        feature = weakref.ref(features[0])
        del features, _
        assert feature() is None
        network_ref = weakref.ref(network)
        del network, taps
        assert network_ref() is None, "hooks must not tie network and taps into a cycle"
    finally:
        gc.enable()


def test_memory_does_not_grow_over_iterations():
    network, x = unet(), image()
    taps = FeatureTaps(network, NAMES)

    def tensors():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    counts = []
    for i in range(12):
        output, features = record(taps, network, x)
        sum(f.mean() for f in (*features, *output)).backward()
        del output, features
        if i >= 2:
            counts.append(tensors())
    assert len(set(counts)) == 1


def shapes(*sizes):
    stages = len(sizes)
    encoder = {f"encoder.{i}": (8, s, s) for i, s in enumerate(sizes)}
    return encoder | {f"decoder.{i}": (8, s, s) for i, s in enumerate(sizes[stages - 2 :: -1])}


def test_pairs_are_the_first_and_the_last_of_equal_resolution():
    assert choose_pairs(shapes(32, 16, 8), shapes(32, 16, 8, 4), 2) == (
        FeaturePair("encoder.0", "encoder.0"),
        FeaturePair("decoder.1", "decoder.2"),
    )


def test_more_pairs_lie_evenly_between():
    pairs = choose_pairs(shapes(32, 16, 8, 4), shapes(32, 16, 8, 4), 3)
    assert [p.student for p in pairs] == ["encoder.0", "encoder.3", "decoder.2"]
    assert len(choose_pairs(shapes(32, 16), shapes(32, 16), 4)) == 3, "no more than there are"
    assert choose_pairs(shapes(32, 16), shapes(32, 16), 1) == (FeaturePair("encoder.0", "encoder.0"),)


def test_without_features_of_equal_size_pairs_must_be_named():
    with pytest.raises(UserError, match=r"kd\.features\.pairs"):
        choose_pairs(shapes(32, 16), shapes(24, 12), 2)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_networks_of_the_papers_name_features_that_later_layers_leave_alone(name, dimensions):
    network = small(name, dimensions).eval()
    names = list(feature_names(network))
    if name == "DilatedNet" and dimensions == 3:
        assert names == [], "it sees slices"
        return
    assert names[0] == "encoder.0"
    x = network_image(name, dimensions)
    copies = {}
    for n in names:
        find_layer(network, n).register_forward_hook(lambda _, __, output, n=n: copies.update({n: output.clone()}))
    taps = FeatureTaps(network, [*names, "bottleneck"])
    with torch.no_grad():
        _, features = record(taps, network, x)
    assert torch.equal(features[-1], features[sum(n.startswith("encoder") for n in names) - 1])
    for n, feature in zip(names, features, strict=False):
        assert torch.equal(feature, copies[n]), n
        assert feature.ndim == x.ndim
        assert len(feature) == len(x)
    measured = measure_features(network, tuple(x.shape[1:]), names)
    encoder = [measured[n][-1] for n in names if n.startswith("encoder")]
    decoder = [measured[n][-1] for n in names if n.startswith("decoder")]
    assert encoder == sorted(encoder, reverse=True)
    assert decoder == sorted(decoder)
    assert len(choose_pairs(measured, measured, 2)) == 2
