"""Soft labels from augmented channels, and the weighted terms over all outputs of a student."""

import math
from dataclasses import replace

import pytest
import torch
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

from nnunet_kd.config import Distillation
from nnunet_kd.losses import (
    DistillationLoss,
    kl_divergence,
    mse_of_probabilities,
    soft_cross_entropy,
    soft_dice_loss,
)
from nnunet_kd.losses.distillation import common_scale
from nnunet_kd.losses.hard_loss import HardLoss
from nnunet_kd.losses.kl import KLTerm
from nnunet_kd.losses.mse import MSETerm
from nnunet_kd.losses.soft_ce import SoftCETerm
from nnunet_kd.losses.soft_dice import SoftDiceTerm
from nnunet_kd.losses.soft_targets import SoftTargets
from nnunet_kd.softlabels import channels as layout

SHAPES = {"2d": (8, 12), "3d": (4, 8, 12)}
ALL = Distillation(
    kl=KLTerm(weight=0.5, temperature=3.0, direction="student_teacher"),
    mse=MSETerm(weight=2.0),
    soft_ce=SoftCETerm(weight=0.25),
    soft_dice=SoftDiceTerm(weight=1.5, batch_dice=False),
)


class LossOfChannels(DistillationLoss):
    """The loss against what the data loader delivers."""

    def forward(self, outputs, channels, progress, *args):
        return super().forward(outputs, SoftTargets(*unpack_soft_labels(channels, self.sigmoid)), progress, *args)


def unpack_soft_labels(channels, sigmoid):
    (probabilities,), valid = layout.unpack(channels, sigmoid)
    return probabilities, valid


def resize_soft_labels(soft_labels, valid, shape, how="mean"):
    resized = SoftTargets(soft_labels, valid).resized(shape, how)
    return resized.probabilities, resized.valid


def direct_terms(logits, q, valid, sigmoid):
    """The terms of ``ALL``, each from its own function."""
    kl = kl_divergence(logits, q, valid, temperature=3.0, direction="student_teacher", sigmoid=sigmoid)
    dice = soft_dice_loss(logits, q, valid, batch_dice=False, sigmoid=sigmoid)
    mse, ce = (f(logits, q, valid, sigmoid=sigmoid) for f in (mse_of_probabilities, soft_cross_entropy))
    return {"kl": 0.5 * kl, "mse": 2.0 * mse, "soft_ce": 0.25 * ce, "soft_dice": 1.5 * dice}


def teacher(spatial, sigmoid, classes=4, seed=0):
    """Probabilities (2, C, *spatial), with certain voxels among them."""
    scores = 4 * torch.randn((2, classes, *spatial), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scores.sigmoid() if sigmoid else scores.softmax(1)


def channels(q, inside, sigmoid):
    """What the data loader delivers: stored channels and mask, both scaled by the part that lies inside the image."""
    return torch.cat((q if sigmoid else q[:, 1:], torch.ones_like(q[:, :1])), 1) * inside


def pyramid(spatial, classes=4):
    """Logits at full, half and quarter resolution of the two last axes."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(*spatial[:-2], spatial[-2] // s, spatial[-1] // s) for s in (1, 2, 4)]
    return [torch.randn((2, classes, *size), generator=generator, dtype=torch.float64) for size in sizes]


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys(), name="spatial")
def _spatial(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["softmax", "sigmoid"], name="sigmoid")
def _sigmoid(request):
    return request.param


def test_soft_labels_inside_the_image_come_back_as_they_were(spatial, sigmoid):
    q = teacher(spatial, sigmoid)
    soft, valid = unpack_soft_labels(channels(q, 1.0, sigmoid), sigmoid)
    torch.testing.assert_close(soft, q, rtol=0, atol=1e-12)
    assert valid.shape == (2, 1, *spatial)
    assert valid.dtype == torch.bool
    assert valid.all()


def test_voxels_at_the_border_are_renormalised_and_those_outside_are_zero_and_invalid(spatial, sigmoid):
    q = teacher(spatial, sigmoid)
    inside = torch.tensor([1.0, 0.75, 0.51, 0.49, 0.2, 0.0], dtype=q.dtype).repeat(spatial[-1] // 6)
    soft, valid = unpack_soft_labels(channels(q, inside, sigmoid), sigmoid)
    expected = (inside > 0.5).expand_as(valid)
    assert torch.equal(valid, expected)
    torch.testing.assert_close(soft, q * expected, rtol=0, atol=1e-12)


def test_interpolation_overshoot_still_gives_probabilities(spatial, sigmoid):
    q = teacher(spatial, sigmoid)
    noisy = channels(q, 1.0, sigmoid) + 0.1 * torch.randn(1, dtype=q.dtype) * torch.randn_like(q[:, :1])
    soft, valid = unpack_soft_labels(noisy, sigmoid)
    assert (soft >= 0).all()
    assert (soft <= 1).all()
    if not sigmoid:
        torch.testing.assert_close(soft.sum(1, keepdim=True), valid.to(soft.dtype))


def test_averaging_down_is_the_mean_over_blocks_and_keeps_the_sum(spatial, sigmoid):
    q = teacher(spatial, sigmoid)
    shape = tuple(s // 2 for s in spatial)
    coarse, valid = resize_soft_labels(q, torch.ones_like(q[:, :1], dtype=torch.bool), shape)
    corner = q[(slice(None), slice(None), *(slice(0, 2) for _ in spatial))].flatten(2).mean(2)
    torch.testing.assert_close(coarse.flatten(2)[:, :, 0], corner)
    assert valid.all()
    if not sigmoid:
        torch.testing.assert_close(coarse.sum(1), torch.ones_like(coarse[:, 0]))


def test_averaging_down_takes_valid_voxels_only_and_needs_half_of_them():
    q = torch.tensor([[0.9, 0.5, 0.2, 0.0], [0.0, 0.0, 0.0, 0.0]]).view(1, 1, 2, 4)
    valid = torch.tensor([[True, True, True, False], [False, False, False, False]]).view(1, 1, 2, 4)
    coarse, coarse_valid = resize_soft_labels(q, valid, (1, 2))
    assert coarse_valid.flatten().tolist() == [True, False]
    assert float(coarse[0, 0, 0, 0]) == pytest.approx(0.7)


def test_resizing_to_the_same_shape_changes_nothing(spatial, sigmoid):
    q = teacher(spatial, sigmoid)
    valid = torch.ones_like(q[:, :1], dtype=torch.bool)
    assert all(map(torch.equal, resize_soft_labels(q, valid, spatial), (q, valid)))


def test_each_term_is_its_own_loss_times_its_weight(spatial, sigmoid):
    q, logits = teacher(spatial, sigmoid), pyramid(spatial)[0]
    raw = channels(q, (torch.arange(spatial[-1]) > 2).double(), sigmoid)
    terms = LossOfChannels(ALL, sigmoid, [1.0])(logits, raw, 0.0)
    expected = direct_terms(logits, *unpack_soft_labels(raw, sigmoid), sigmoid)
    assert list(terms) == ["kl", "mse", "soft_ce", "soft_dice"]
    assert {k: float(v) for k, v in terms.items()} == pytest.approx({k: float(v) for k, v in expected.items()})


def test_deep_supervision_is_the_weighted_sum_over_outputs(spatial, sigmoid):
    q, outputs, weights = teacher(spatial, sigmoid), pyramid(spatial), (0.6, 0.3, 0.1)
    raw = channels(q, 1.0, sigmoid)
    soft, valid = unpack_soft_labels(raw, sigmoid)
    each = [direct_terms(o, *resize_soft_labels(soft, valid, o.shape[2:]), sigmoid) for o in outputs]
    terms = LossOfChannels(ALL, sigmoid, weights)(outputs, raw, 0.0)
    for name, value in terms.items():
        expected = sum(w * float(e[name]) for w, e in zip(weights, each, strict=True))
        assert float(value) == pytest.approx(expected), name


def test_an_output_of_weight_zero_is_skipped(spatial, sigmoid):
    raw, (first, second, last) = channels(teacher(spatial, sigmoid), 1.0, sigmoid), pyramid(spatial)
    loss = LossOfChannels(ALL, sigmoid, (0.7, 0.3, 0.0))
    with_last = loss([first, second, torch.full_like(last, math.nan)], raw, 0.0)
    assert all(torch.isfinite(v) for v in with_last.values())


def test_deep_supervision_off_uses_the_highest_resolution_with_weight_one(spatial, sigmoid):
    raw, outputs = channels(teacher(spatial, sigmoid), 1.0, sigmoid), pyramid(spatial)
    off = Distillation(mse=MSETerm(weight=1.0), deep_supervision=False)
    value = LossOfChannels(off, sigmoid, (0.6, 0.3, 0.1))(outputs, raw, 0.0)["mse"]
    expected = LossOfChannels(off, sigmoid, (1.0,))(outputs[0], raw, 0.0)["mse"]
    assert float(value) == float(expected) > 0


def test_only_terms_with_a_weight_are_computed(spatial, sigmoid):
    raw, logits = channels(teacher(spatial, sigmoid), 1.0, sigmoid), pyramid(spatial)[0]
    one = Distillation(soft_dice=SoftDiceTerm(weight=1.0), soft_ce=SoftCETerm(weight=0.0))
    none = Distillation(soft_dice=SoftDiceTerm(weight=0.0), soft_ce=SoftCETerm(weight=0.0))
    assert tuple(one.active()) == tuple(LossOfChannels(one, sigmoid, [1.0])(logits, raw, 0.0)) == ("soft_dice",)
    assert tuple(none.active()) == ()
    assert LossOfChannels(none, sigmoid, [1.0])(logits, raw, 0.0) == {}


def test_the_default_is_the_soft_counterpart_of_nnunets_loss():
    assert tuple(Distillation().active()) == ("soft_ce", "soft_dice")


def test_each_term_follows_its_own_ramp():
    raw, logits = channels(teacher((8, 12), False), 1.0, False), pyramid((8, 12))[0]
    config = Distillation(
        kl=KLTerm(1.0, "linear", 0.5),
        mse=MSETerm(1.0, "gaussian"),
        soft_ce=SoftCETerm(1.0, "none"),
        soft_dice=SoftDiceTerm(weight=0.0),
    )
    loss = LossOfChannels(config, False, [1.0])
    full, quarter = loss(logits, raw, 1.0), loss(logits, raw, 0.25)
    ratio = {name: float(quarter[name] / full[name]) for name in full}
    assert ratio == pytest.approx({"kl": 0.5, "mse": math.exp(-5 * 0.75**2), "soft_ce": 1.0})
    assert float(loss(logits, raw, 0.0)["kl"]) == 0


def test_what_lies_outside_the_image_never_matters(spatial, sigmoid):
    inside = (torch.arange(spatial[-1]) >= 4).double()
    raw, outputs = channels(teacher(spatial, sigmoid), inside, sigmoid), pyramid(spatial)
    other = [o.clone() for o in outputs]
    for o in other:
        o[..., : o.shape[-1] // 3] += 50
    loss = LossOfChannels(ALL, sigmoid, (0.6, 0.3, 0.1))
    assert loss(outputs, raw, 0.0) == loss(other, raw, 0.0)


def test_a_patch_wholly_outside_the_image_costs_nothing(spatial, sigmoid):
    outputs = [o.requires_grad_() for o in pyramid(spatial)]
    raw = channels(teacher(spatial, sigmoid), 0.0, sigmoid)
    terms = LossOfChannels(ALL, sigmoid, (0.6, 0.3, 0.1))(outputs, raw, 0.0)
    torch.stack(list(terms.values())).sum().backward()
    assert all((v == 0).all() for v in terms.values())
    assert all((o.grad == 0).all() for o in outputs)


def test_the_student_alone_gets_a_gradient_and_the_loss_has_no_parameters(spatial, sigmoid):
    raw = channels(teacher(spatial, sigmoid), 1.0, sigmoid).requires_grad_()
    outputs = [o.requires_grad_() for o in pyramid(spatial)]
    loss = LossOfChannels(ALL, sigmoid, (0.6, 0.3, 0.1))
    torch.stack(list(loss(outputs, raw, 0.0).values())).sum().backward()
    assert all(o.grad.abs().sum() > 0 for o in outputs)
    assert raw.grad is None
    assert not loss.state_dict()


def test_channels_that_do_not_fit_the_labels_are_refused(spatial, sigmoid):
    raw, logits = channels(teacher(spatial, sigmoid), 1.0, sigmoid), pyramid(spatial)[0]
    with pytest.raises(ValueError, match="soft labels"):
        LossOfChannels(ALL, sigmoid, [1.0])(logits, raw[:, 1:], 0.0)


def test_a_wrong_number_of_outputs_is_refused(spatial, sigmoid):
    raw, outputs = channels(teacher(spatial, sigmoid), 1.0, sigmoid), pyramid(spatial)
    for given, weights in ((outputs, (1.0,)), (outputs[:1], (0.7, 0.3))):
        with pytest.raises(ValueError, match="deep-supervision weights"):
            LossOfChannels(ALL, sigmoid, weights)(given, raw, 0.0)


def test_compiles_as_one_graph(sigmoid):
    raw, outputs = channels(teacher((8, 12), sigmoid), 1.0, sigmoid), pyramid((8, 12))
    loss = LossOfChannels(ALL, sigmoid, (0.6, 0.3, 0.1))
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    for progress in (0.0, 0.5):
        values, expected = compiled(outputs, raw, progress), loss(outputs, raw, progress)
        assert {k: float(v) for k, v in values.items()} == pytest.approx({k: float(v) for k, v in expected.items()})


def test_the_nearest_voxel_is_the_one_that_nnunet_takes_of_the_reference(spatial):
    shape = tuple(s // 2 for s in spatial)
    labels = torch.randint(0, 3, (1, *spatial))
    soft = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    coarse, valid = resize_soft_labels(soft, torch.ones_like(soft[:, :1], dtype=torch.bool), shape, "nearest")
    theirs = DownsampleSegForDSTransform([[0.5] * len(spatial)])(segmentation=labels.short())["segmentation"][0]
    assert torch.equal(coarse.argmax(1), theirs.long())
    assert valid.all()


def test_lower_outputs_follow_the_nearest_voxel_of_the_whole_patch():
    soft = torch.rand(1, 1, 8, 8)
    config = Distillation(soft_dice=SoftDiceTerm(1.0, "none"), downsampling="nearest", normalized=False)
    outputs = [torch.zeros(1, 1, 8 // f, 8 // f) for f in (1, 2, 4)]
    loss = LossOfChannels(config, True, [0.0, 0.0, 1.0])
    value = loss(outputs, torch.cat((soft, torch.ones_like(soft)), 1), 0.5)["soft_dice"]
    p, t = torch.full((2, 2), 0.5), soft[0, 0, 2::4, 2::4]
    assert float(value) == pytest.approx(float(1 - 2 * (p * t).sum() / (p.square() + t.square()).sum()), rel=1e-4)


@pytest.mark.parametrize(
    ("weights", "hard", "progress", "expected"),
    [
        ({"soft_ce": 1, "soft_dice": 1}, {}, 0.5, 0.5),
        ({"soft_ce": 1, "soft_dice": 1}, {"weight": 0}, 0.5, 1.0),
        ({"soft_ce": 3, "soft_dice": 0}, {"name": "ce"}, 0.5, 0.25),
        ({"soft_ce": 0, "soft_dice": 0}, {"weight": 0}, 0.5, 1.0),
        ({"soft_ce": (2, "linear"), "soft_dice": 0}, {}, 0.0, 1.0),
        ({"soft_ce": (2, "linear"), "soft_dice": 0}, {}, 1.0, 0.5),
        ({"soft_ce": 1, "soft_dice": 1}, {"name": "dice_lovasz", "dice_weight": 0.2, "other_weight": 0.3}, 0.5, 0.2),
    ],
)
def test_all_weights_together_are_those_of_the_hard_loss_alone(weights, hard, progress, expected):
    terms = {k: w if isinstance(w, tuple) else (w, "none") for k, w in weights.items()}
    config = Distillation(
        soft_ce=SoftCETerm(weight=terms["soft_ce"][0], ramp=terms["soft_ce"][1]),
        soft_dice=SoftDiceTerm(weight=terms["soft_dice"][0], ramp=terms["soft_dice"][1]),
    )
    loss = HardLoss(**hard)
    scale = common_scale(config, loss, progress)
    assert scale == pytest.approx(expected)
    assert common_scale(replace(config, normalized=False), loss, progress) == 1


@pytest.mark.parametrize(("known", "expected"), [(0.5, 2 / (2 + 2 * 0.625)), (1.0, 2 / 2.5), (0.0, 0.5)])
def test_the_weight_of_a_term_that_fades_is_the_mean_over_the_voxels(known, expected):
    config = Distillation(soft_ce=SoftCETerm(ramp="fade"), soft_dice=SoftDiceTerm(ramp="fade"))
    reference = (torch.arange(8) < 8 * known).view(2, 1, 2, 2)
    assert float(common_scale(config, HardLoss(), 0.75, reference)) == pytest.approx(expected)
    if known == 1:
        assert common_scale(config, HardLoss(), 0.75) == pytest.approx(expected)
