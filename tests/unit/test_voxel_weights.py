"""Weights of voxels by the teachers' certainty: limits, golden values, and what they do to the terms."""

import numpy as np
import pytest
import torch

from nnunet_kd.config import Distillation
from nnunet_kd.losses import DistillationLoss, distillation, voxel_weights
from nnunet_kd.losses.kl import KLTerm
from nnunet_kd.losses.mse import MSETerm
from nnunet_kd.losses.soft_ce import SoftCETerm
from nnunet_kd.losses.soft_dice import SoftDiceTerm
from nnunet_kd.losses.soft_labels import Comparison
from nnunet_kd.losses.soft_targets import SoftTargets
from nnunet_kd.softlabels.channels import unpack

KINDS = ["confidence", "entropy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_certain_voxels_count_one_and_undecided_ones_nothing(kind, shape):
    one_hot = torch.zeros(2, 4, *shape)
    one_hot[:, 1] = 1
    assert torch.equal(voxel_weights(one_hot, kind), torch.ones(2, 1, *shape))
    torch.testing.assert_close(voxel_weights(torch.full((2, 4, *shape), 0.25), kind), torch.zeros(2, 1, *shape))
    regions = torch.full((2, 3, *shape), 0.5)
    torch.testing.assert_close(voxel_weights(regions, kind, sigmoid=True), torch.zeros(2, 1, *shape))
    assert torch.equal(voxel_weights(one_hot, kind, sigmoid=True), torch.ones(2, 1, *shape))


def test_values_by_hand():
    t = torch.tensor([0.7, 0.2, 0.1]).reshape(1, 3, 1, 1)
    assert voxel_weights(t, "confidence").item() == pytest.approx((3 * 0.7 - 1) / 2)
    entropy = -sum(p * np.log(p) for p in (0.7, 0.2, 0.1))
    assert voxel_weights(t, "entropy").item() == pytest.approx(1 - entropy / np.log(3), rel=1e-5)
    assert voxel_weights(t, "none").item() == 1
    pair = torch.tensor([0.9, 0.6]).reshape(1, 2, 1, 1)
    assert voxel_weights(pair, "confidence", sigmoid=True).item() == pytest.approx((0.8 + 0.2) / 2)
    with pytest.raises(ValueError, match="voxel weight"):
        voxel_weights(t, "certainty")


def loss_and_batch(**ramp):
    config = Distillation(
        kl=KLTerm(weight=1.0, temperature=1.0),
        mse=MSETerm(weight=1.0),
        soft_ce=SoftCETerm(**ramp),
        soft_dice=SoftDiceTerm(weight=2.0, **ramp),
    )
    torch.manual_seed(0)
    soft = torch.rand(3, 3, 6, 6, dtype=torch.float64).softmax(1)
    channels = torch.cat((soft[:, 1:], torch.ones(3, 1, 6, 6, dtype=torch.float64)), 1)
    (probabilities,), valid = unpack(channels, sigmoid=False)
    logits = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    return DistillationLoss(config, False, (1.0,)), logits, SoftTargets(probabilities, valid), soft


def test_only_the_unlabeled_cases_are_weighted():
    loss, logits, targets, soft = loss_and_batch(ramp="none")
    values = loss(logits, targets, 1.0, unlabeled=1, voxel_weight="confidence")
    weights = np.ones((3, 1, 6, 6))
    weights[2:] = voxel_weights(soft[2:], "confidence").numpy()
    p, t = logits.softmax(1).numpy(), soft.numpy()
    expected = {
        "kl": (weights * (t * np.log(t / p)).sum(1, keepdims=True)).sum() / weights.sum(),
        "mse": (weights * ((p - t) ** 2).mean(1, keepdims=True)).sum() / weights.sum(),
        "soft_ce": -(weights * (t * np.log(p)).sum(1, keepdims=True)).sum() / weights.sum(),
    }
    axes = (0, 2, 3)
    overlap = (weights * p * t).sum(axes)[1:]
    total = (weights * (p**2 + t**2)).sum(axes)[1:]
    expected["soft_dice"] = 2 * (1 - (2 * overlap / total).mean())
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value, rel=1e-5), name


def test_no_weights_or_no_unlabeled_cases_change_nothing():
    loss, logits, targets, _ = loss_and_batch(ramp="none")
    plain = loss(logits, targets, 1.0)
    for values in (loss(logits, targets, 1.0, 2, "none"), loss(logits, targets, 1.0, 0, "entropy")):
        assert all(torch.equal(values[k], plain[k]) for k in plain)


def known_voxels(cases):
    """Where three cases have a reference: the first everywhere; in the second some voxels are ignored."""
    known = torch.ones(3, 1, 6, 6, dtype=torch.bool)
    known[1, :, :2] = False
    known[cases:] = False
    return known


@pytest.mark.parametrize("cases", [2, 3])
def test_voxels_without_a_reference_keep_soft_labels_that_fade(cases):
    loss, logits, targets, soft = loss_and_batch(ramp="fade", ramp_length=0.5)
    constant, known = loss_and_batch(ramp="none")[0], known_voxels(cases)
    p, t = logits.softmax(1).numpy(), soft.numpy()
    for progress, share in ((0.0, 1.0), (0.2, 0.6), (0.5, 0.0), (0.9, 0.0)):
        values = loss(logits, targets, progress, unlabeled=3 - cases, reference=known)
        weights = np.where(known.numpy(), share, 1.0)
        entropy = -(weights * (t * np.log(p)).sum(1, keepdims=True)).sum() / weights.size
        assert values["soft_ce"].item() == pytest.approx(entropy, rel=1e-5), "a voxel without one counts as ever"
        axes = (0, 2, 3)
        overlap, total = (weights * p * t).sum(axes)[1:], (weights * (p**2 + t**2)).sum(axes)[1:]
        dice = 2 * weights.mean() * (1 - (2 * overlap / total).mean())
        assert values["soft_dice"].item() == pytest.approx(dice, rel=1e-4)
        same = constant(logits, targets, progress)
        for name in ("kl", "mse"):  # these do not fade
            assert torch.equal(values[name], same[name]), name


@pytest.mark.parametrize("known", [None, torch.ones(3, 1, 6, 6, dtype=torch.bool)])
def test_where_all_voxels_have_a_reference_the_term_itself_fades(known):
    loss, logits, targets, _ = loss_and_batch(ramp="fade")
    plain = loss_and_batch(ramp="none")[0](logits, targets, 0.25)
    values = loss(logits, targets, 0.25, reference=known)
    assert values["soft_dice"].item() == pytest.approx(0.75 * plain["soft_dice"].item(), rel=1e-4)
    assert values["soft_ce"].item() == pytest.approx(0.75 * plain["soft_ce"].item(), rel=1e-5)


def test_terms_share_a_comparison_where_all_voxels_count_alike(monkeypatch):
    made = []
    monkeypatch.setattr(distillation, "Comparison", lambda *a, **k: made.append(a) or Comparison(*a, **k))
    loss, logits, targets, _ = loss_and_batch(ramp="fade")
    loss(logits, targets, 0.25)
    assert len(made) == 1, "a softmax for all four terms"
    loss(logits, targets, 0.25, reference=known_voxels(3))
    assert len(made) == 3, "and two where those that fade count some voxels less"


def test_without_any_reference_nothing_fades():
    loss, logits, targets, _ = loss_and_batch(ramp="fade")
    plain = loss_and_batch(ramp="none")[0](logits, targets, 1.0)
    values = loss(logits, targets, 1.0, reference=torch.zeros(3, 1, 6, 6, dtype=torch.bool))
    assert {k: v.item() for k, v in values.items()} == {k: v.item() for k, v in plain.items()}


@pytest.mark.parametrize("how", ["mean", "nearest"])
def test_lower_outputs_count_the_voxels_that_they_cover(how):
    torch.manual_seed(0)
    soft, known = torch.rand(1, 2, 4, 4).softmax(1), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    known[..., 1:, 1:] = True  # of the four blocks 1/4, 1/2, 1/2 and 1; their lower right voxels are all known
    config = Distillation(soft_ce=SoftCETerm(ramp="fade"), soft_dice=SoftDiceTerm(weight=0), downsampling=how)
    loss = DistillationLoss(config, False, (0.0, 1.0))
    outputs = [torch.zeros(1, 2, 4, 4), torch.randn(1, 2, 2, 2)]
    value = loss(outputs, SoftTargets(soft), 1.0, reference=known)["soft_ce"]
    shares = torch.tensor([[0.25, 0.5], [0.5, 1.0]]) if how == "mean" else torch.ones(2, 2)
    blocks = torch.nn.functional.avg_pool2d(soft, 2) if how == "mean" else soft[..., 1::2, 1::2]
    per_voxel = -(blocks * outputs[1].log_softmax(1)).sum(1)
    left = (1 - shares) * per_voxel
    expected = (1 - known.float().mean()) * left.sum() / (1 - shares).sum().clamp_min(1)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_teachers_sureness_and_fading_count_together():
    loss, logits, targets, soft = loss_and_batch(ramp="fade")
    known = known_voxels(1)
    value = loss(logits, targets, 0.75, unlabeled=2, voxel_weight="entropy", reference=known)["soft_ce"].item()
    weights = np.concatenate((np.full((1, 1, 6, 6), 0.25), voxel_weights(soft[1:], "entropy").numpy()))
    per_voxel = -(soft * logits.log_softmax(1)).sum(1, keepdim=True).numpy()
    assert value == pytest.approx(0.75 * (weights * per_voxel).sum() / weights.sum(), rel=1e-5)
