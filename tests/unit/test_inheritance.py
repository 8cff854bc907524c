"""Reconstruction of a teacher by a smaller student: exact where it can be, refused where it cannot."""

import copy

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn
from torch.nn import functional as F

from nnunet_kd.inheritance import regression
from nnunet_kd.inheritance.channels import ChannelStatistics, choose_channels
from nnunet_kd.inheritance.pairs import CannotInheritError, matched, pair_layers
from nnunet_kd.inheritance.reconstruct import FOCUS, Batch, _foreground, near_foreground, reconstruct
from nnunet_kd.inheritance.regression import (
    NormalEquations,
    equations,
    fit_scores,
    sample_places,
    solve_with_held_out,
    under_kernel,
    under_transposed,
    values_at,
)
from tests.reference import ridge as reference

CLASSES = {"plain": PlainConvUNet, "residual": ResidualEncoderUNet}


@pytest.fixture(params=sorted(CLASSES), name="cls")
def _cls(request):
    return CLASSES[request.param]


@pytest.fixture(params=[2, 3], ids=["2d", "3d"], name="dimensions")
def _dimensions(request):
    return request.param


def unet(cls, dimensions, features, convolutions=2, decoder=2, norm="Instance", bias=True, strides=None, **more):
    """A U-Net with random weights and random normalisations, in evaluation mode."""
    stages = len(features)
    strides = strides or [[1] * dimensions, *[[2] * dimensions] * (stages - 1)]
    network = cls(
        input_channels=1,
        n_stages=stages,
        features_per_stage=features,
        conv_op=getattr(nn, f"Conv{dimensions}d"),
        kernel_sizes=[[3] * dimensions] * stages,
        strides=strides,
        **{"n_conv_per_stage" if cls is PlainConvUNet else "n_blocks_per_stage": [convolutions] * stages},
        num_classes=3,
        n_conv_per_stage_decoder=[decoder] * (stages - 1),
        conv_bias=bias,
        norm_op=norm and getattr(nn, f"{norm}Norm{dimensions}d"),
        norm_op_kwargs={"affine": True, "eps": 1e-5},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **more,
    )
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) or type(module).__name__.startswith("InstanceNorm"):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            if module.running_mean is not None:
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def batches(dimensions, number=8, size=None, classes=3):
    size = size or {2: 32, 3: 16}[dimensions]
    result = []
    for i in range(number):
        generator = torch.Generator().manual_seed(i)
        images = torch.randn(2, 1, *[size] * dimensions, generator=generator)
        labels = torch.randint(0, classes, (2, *[size] * dimensions), generator=generator)
        result.append(Batch(images, F.one_hot(labels, classes).movedim(-1, 1).float()))
    return result


def cross_entropy(logits, target):
    return -(target * logits.log_softmax(1)).sum(1).mean()


def rebuild(student, teacher, data, **options):
    reconstruct(student, teacher, data, cross_entropy, progress=False, **options)
    return student


@torch.no_grad()
def difference(student, teacher, data):
    """Largest difference of any output, relative to its spread."""
    pairs = zip(student(data[0].images), teacher(data[0].images), strict=True)
    return max(float((a - b).abs().max() / b.std()) for a, b in pairs)


@pytest.mark.parametrize(("norm", "bias"), [("Instance", True), ("Instance", False), ("Batch", True), ("Batch", False)])
def test_a_student_as_wide_as_its_teacher_gives_its_output(cls, dimensions, norm, bias):
    torch.manual_seed(0)
    teacher, student = (unet(cls, dimensions, [4, 8, 8], norm=norm, bias=bias) for _ in range(2))
    data = batches(dimensions)
    assert difference(student, teacher, data) > 0.5
    assert difference(rebuild(student, teacher, data), teacher, data) < 1e-3


def test_without_normalisation_too(dimensions):
    torch.manual_seed(0)
    teacher, student = (unet(PlainConvUNet, dimensions, [4, 8], norm=None) for _ in range(2))
    data = batches(dimensions)
    assert difference(rebuild(student, teacher, data), teacher, data) < 1e-3


def widened(narrow, wide, twice):
    """Gives ``wide`` the function of ``narrow``: its further channels are copies (``twice``) or lead nowhere."""
    source, target = narrow.state_dict(), wide.state_dict()
    for name, mine in source.items():
        theirs = target[name]
        if theirs.shape == mine.shape:
            target[name] = mine.clone()
        elif theirs.ndim == 1:
            target[name] = torch.cat((mine, mine if twice else theirs[len(mine) :]))
        else:
            transposed = "transpconvs" in name
            mine, theirs = (w.transpose(0, 1) if transposed else w for w in (mine, theirs))  # (O, C, *kernel)
            if theirs.shape[1] > mine.shape[1]:
                # what a decoder's first convolution sees is put together from two kinds of features
                parts = 2 if name.startswith("decoder.stages") and ".convs.0." in name else 1
                pieces = [
                    torch.cat((p / 2, p / 2) if twice else (p, torch.zeros_like(p)), 1) for p in mine.chunk(parts, 1)
                ]
                mine = torch.cat(pieces, 1)
            if theirs.shape[0] > mine.shape[0]:
                mine = torch.cat((mine, mine if twice else theirs[len(mine) :]), 0)
            target[name] = mine.transpose(0, 1).contiguous() if transposed else mine
    wide.load_state_dict(target)
    return wide


@pytest.mark.parametrize("twice", [True, False], ids=["copies", "dead"])
def test_a_teacher_half_of_whose_channels_say_nothing_new_is_halved_exactly(cls, dimensions, twice):
    torch.manual_seed(1)
    narrow = unet(cls, dimensions, [4, 4, 6])
    teacher = widened(narrow, unet(cls, dimensions, [8, 8, 12]), twice)
    data = batches(dimensions)
    assert difference(narrow, teacher, data) < 1e-4
    student = rebuild(unet(cls, dimensions, [4, 4, 6]), teacher, data)
    assert difference(student, teacher, data) < 1e-2


def test_a_smaller_student_is_nearer_to_its_teacher_than_a_random_one(cls, dimensions):
    torch.manual_seed(2)
    teacher = unet(cls, dimensions, [8, 12, 16])
    data = batches(dimensions)
    random = unet(cls, dimensions, [4, 8, 8], convolutions=1, decoder=1)
    student = rebuild(copy.deepcopy(random), teacher, data)

    def divergence(network):
        """From the teacher, in nats for each voxel."""
        with torch.no_grad():
            mine, theirs = (n(data[0].images)[0].log_softmax(1) for n in (network, teacher))
        return float(F.kl_div(mine, theirs, reduction="none", log_target=True).sum(1).mean())

    assert divergence(student) < 0.7 * divergence(random)


def test_fewer_stages_and_anisotropic_strides():
    torch.manual_seed(3)
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    teacher = unet(PlainConvUNet, 3, [4, 6, 8], strides=strides)
    student = unet(PlainConvUNet, 3, [4, 6], strides=strides[:2])
    data = batches(3)
    rebuild(student, teacher, data)
    name = "encoder.stages.1.0.convs.1.conv.weight"
    torch.testing.assert_close(student.state_dict()[name], teacher.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_fewer_residual_blocks(blocks, dimensions):
    torch.manual_seed(4)
    teacher = unet(ResidualEncoderUNet, dimensions, [6, 8, 8], convolutions=3)
    student = rebuild(
        unet(ResidualEncoderUNet, dimensions, [6, 8, 8], convolutions=blocks), teacher, data := batches(dimensions)
    )
    d = difference(student, teacher, data)
    assert np.isfinite(d)
    assert (d < 1e-3) == (blocks == 3)


def test_the_order_of_the_teachers_channels_does_not_matter():
    torch.manual_seed(5)
    teacher = unet(PlainConvUNet, 2, [8, 12])
    other = copy.deepcopy(teacher)
    first, second = other.encoder.stages[0][0].convs
    order = torch.randperm(8)
    with torch.no_grad():
        for parameter in (first.conv.weight, first.conv.bias, first.norm.weight, first.norm.bias):
            parameter.copy_(parameter[order])
        second.conv.weight.copy_(second.conv.weight[:, order])
    data = batches(2)
    assert difference(other, teacher, data) < 1e-4
    torch.manual_seed(6)
    start = unet(PlainConvUNet, 2, [4, 8])
    students = [rebuild(copy.deepcopy(start), t, data) for t in (teacher, other)]
    assert difference(*students, data) < 1e-2


def test_it_is_repeatable_and_touches_only_the_students_weights():
    torch.manual_seed(7)
    teacher, start = unet(PlainConvUNet, 2, [8, 8]), unet(PlainConvUNet, 2, [4, 4]).train()
    start.decoder.deep_supervision = False
    before, state = copy.deepcopy(teacher.state_dict()), torch.get_rng_state()
    first, second = (rebuild(copy.deepcopy(start), teacher, batches(2), seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(*(n.state_dict().values() for n in (first, second)), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), teacher.state_dict().values(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert first.training
    assert not first.decoder.deep_supervision
    assert not any(m._forward_hooks or m._forward_pre_hooks for n in (first, teacher) for m in n.modules())


def test_regions_too():
    torch.manual_seed(8)
    teacher, student = (unet(PlainConvUNet, 2, [4, 8]) for _ in range(2))
    data = batches(2)
    assert difference(rebuild(student, teacher, data, sigmoid=True), teacher, data) < 1e-3


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        (unet(PlainConvUNet, 2, [8, 8]), unet(PlainConvUNet, 2, [4, 8]), "has 8 channels, the teacher's has 4"),
        (unet(PlainConvUNet, 2, [4, 8], convolutions=3), unet(PlainConvUNet, 2, [4, 8]), "has 3 layers"),
        (unet(PlainConvUNet, 2, [4, 8, 8]), unet(PlainConvUNet, 2, [4, 8]), "has 3 stages, the teacher 2"),
        (unet(PlainConvUNet, 2, [4, 4]), unet(ResidualEncoderUNet, 2, [4, 8]), "is a PlainConvUNet, the teacher"),
        (nn.Conv2d(1, 1, 1), unet(PlainConvUNet, 2, [4, 8]), "is a Conv2d, not one of nnU-Net's U-Nets"),
        (
            unet(PlainConvUNet, 2, [4, 8]),
            unet(PlainConvUNet, 2, [4, 8], strides=[[1, 1], [1, 2]]),
            "have other strides",
        ),
        (unet(PlainConvUNet, 2, [4, 8]), unet(PlainConvUNet, 2, [4, 8], norm="Batch"), "normalisation after"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_what_cannot_be_inherited_is_refused(student, teacher, reason):
    with pytest.raises(CannotInheritError, match=reason):
        pair_layers(student, teacher)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"), [(2, 2, [0, 1]), (1, 2, [1]), (2, 3, [0, 2]), (3, 6, [1, 3, 5])]
)
def test_the_last_layer_of_a_stage_always_ends_with_the_teachers_last(student, teacher, expected):
    assert matched(student, teacher) == expected


@pytest.mark.parametrize(
    ("kernel", "stride", "size"),
    [((3, 3), (1, 1), (5, 6)), ((3, 3), (2, 2), (6, 8)), ((1, 3, 3), (1, 2, 2), (3, 4, 6)), ((1, 1), (1, 1), (4, 4))],
)
def test_under_the_kernel_is_what_the_convolution_sees(kernel, stride, size):
    conv = [nn.Conv2d, nn.Conv3d][len(kernel) - 2](3, 4, kernel, stride, [(k - 1) // 2 for k in kernel]).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    out = conv(x)
    places = torch.arange(2 * out[0, 0].numel())
    seen = under_kernel(conv, x, places)
    np.testing.assert_allclose(seen.numpy(), reference.columns(x.numpy(), kernel, stride))
    torch.testing.assert_close(seen @ conv.weight.flatten(1).T + conv.bias, values_at(out, places))


def test_under_a_transposed_convolution_is_what_it_gives():
    conv = nn.ConvTranspose3d(3, 4, (1, 2, 2), (1, 2, 2)).double()
    x = torch.randn(2, 3, 2, 3, 4, dtype=torch.float64)
    places = torch.tensor([0, 7, 23, 24, 47])
    given = under_transposed(conv, conv(x), places)
    expected = values_at(x, places) @ conv.weight.flatten(1) + conv.bias.repeat_interleave(4)
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("strength", [1e-5, 0.1])
@pytest.mark.parametrize("rows", [84, 20])  # more and fewer than the 27 inputs
def test_a_solve_is_that_of_the_reference(intercept, strength, rows, monkeypatch):
    monkeypatch.setattr(regression, "BLOCK", 10)
    rng = np.random.default_rng(0)
    x = reference.columns(rng.normal(1, 1, (2, 3, 6, 7)), (3, 3), (1, 1))[:rows]
    y = rng.normal(2, 1, (len(x), 4)) + x[:, :4]
    solver = equations(x.shape[1], 4, rows, intercept, torch.device("cpu"))
    assert isinstance(solver, NormalEquations) == (rows > x.shape[1])
    for part in (slice(0, 15), slice(15, None)):  # in chunks
        solver.add(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    assert solver.places == rows
    weights = solver.solve(strength)
    expected, constant = reference.ridge(x, y, strength, intercept)
    np.testing.assert_allclose(weights[:-1].numpy(), expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(weights[-1].numpy(), constant, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("places", [50, 30])
def test_the_ridge_that_predicts_held_out_places_is_taken(places):
    torch.manual_seed(0)
    truth = torch.randn(40, 2)
    chosen = []
    for scale in (0.0, 30.0):
        x, other = torch.randn(places, 40), torch.randn(400, 40)
        solver = equations(40, 2, places, True, torch.device("cpu"))
        solver.add(x, x @ truth + scale * torch.randn(places, 2))
        weights, ridge = solve_with_held_out(solver, [(other, other @ truth + scale * torch.randn(400, 2))])
        assert weights.shape == (41, 2)
        chosen.append(ridge)
    assert chosen[1] == 0.1
    assert chosen[0] == 1e-7 or places < 40  # fewer places than inputs do not determine the weights


def test_without_held_out_places_the_ridge_is_small():
    solver = equations(3, 1, 50, True, torch.device("cpu"))
    x = torch.randn(50, 3)
    solver.add(x, x[:, :1])
    weights, ridge = solve_with_held_out(solver, [])
    assert ridge == 1e-5
    torch.testing.assert_close(weights[:3, 0].float(), torch.tensor([1.0, 0, 0]), rtol=1e-3, atol=1e-3)


def test_inputs_that_never_change_get_no_weight():
    equations = NormalEquations.zeros(3, 1, True, torch.device("cpu"))
    x = torch.randn(50, 3)
    x[:, 1] = 0
    equations.add(x, x[:, :1])
    weights = equations.solve(1e-7)
    torch.testing.assert_close(weights[:3, 0], torch.tensor([1.0, 0, 0], dtype=torch.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_scores_follow_probabilities_rather_than_logits(sigmoid):
    torch.manual_seed(0)
    x = torch.randn(500, 6)
    logits = 4 * (x**2)[:, :3]  # not linear in x
    equations = NormalEquations.zeros(6, 3, True, torch.device("cpu"))
    equations.add(x, logits)
    start = equations.solve(1e-5)
    weights = fit_scores(x, logits, start, sigmoid).requires_grad_()
    probabilities = logits.sigmoid() if sigmoid else logits.softmax(1)

    def loss(w):
        mine = x @ w[:-1].float() + w[-1].float()
        return (
            F.binary_cross_entropy_with_logits(mine, probabilities) if sigmoid else F.cross_entropy(mine, probabilities)
        )

    assert loss(weights) < loss(start)
    (gradient,) = torch.autograd.grad(loss(weights), weights)
    assert gradient.abs().max() < 1e-3


def test_places_are_drawn_by_weight_once_each_and_repeatably():
    weights = torch.ones(2, 50, 50)
    weights[:, :10] = 9.0  # a fifth of the places, 36 of 52 parts of the weight
    draws = [sample_places(weights, 500, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    for places in draws:
        assert torch.equal(places, places.unique())
        share = float((weights.flatten()[places] > 1).float().mean())
        assert 0.55 < share < 0.75
    assert torch.equal(sample_places(weights[:1, :2], 500, torch.Generator()), torch.arange(100))


def test_chosen_channels_are_important_and_say_different_things():
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 4000, 1).double()
    values = torch.cat((a, 2 * a, b, c, torch.zeros_like(a)), 1)  # 1 is a copy of 0, 4 is dead
    statistics = ChannelStatistics.zeros(5, torch.device("cpu"))
    statistics.add(torch.tensor([5.0, 5.0, 2.0, 1.0, 0.0]), values)
    torch.testing.assert_close(statistics.covariance, values.T.cov(correction=0))
    assert choose_channels([statistics], 1).item() in (0, 1)
    assert set(choose_channels([statistics], 2).tolist()) in ({0, 2}, {1, 2})
    assert set(choose_channels([statistics], 3).tolist()) in ({0, 2, 3}, {1, 2, 3})
    assert choose_channels([statistics], 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sigmoid", [False, True])
def test_foreground_is_every_region_or_every_class_but_the_background(sigmoid):
    reference = torch.zeros(1, 2, 8, 8)
    reference[:, 0, 0, 0] = 1  # the first region, or background
    mask = _foreground(reference, sigmoid)
    assert mask.shape == (1, 1, 8, 8)
    assert float(mask.sum()) == sigmoid
    weights = near_foreground(mask, (4, 4))
    assert float(weights[0, 0, 0]) == (FOCUS if sigmoid else 1)
    assert float(weights[0, 3, 3]) == 1
