"""The sum of feature terms with its projection heads, and the weights of several teachers."""

import pytest
import torch
from torch import distributed as dist

from nnunet_kd.config import Features
from nnunet_kd.losses import FeatureDistillationLoss, importance_loss
from nnunet_kd.losses.feature_term import FEATURE_TERMS
from nnunet_kd.losses.teacher_weights import reference_dice_losses, teacher_weights
from nnunet_kd.utilities.schema import from_dict

ONLY = {name: {"weight": 0.0} for name in ("importance", "region_affinity")}


def block(**terms) -> Features:
    return from_dict(Features, ONLY | terms, "kd.features")


def example(dimensions=2, seed=0):
    """Features of two pairs, with 3 and 5 or with 4 and 4 channels, and regions."""
    generator = torch.Generator().manual_seed(seed)
    size = [4] * dimensions
    student, teacher = (
        [torch.randn(2, c, *size, generator=generator) for c in channels] for channels in ((3, 4), (5, 4))
    )
    labels = torch.randint(0, 3, (2, 1, *size), generator=generator)
    return student, teacher, labels == torch.arange(3).view(1, 3, *[1] * dimensions)


CHANNELS = [(3, 5), (4, 4)]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_every_term_is_finite_weighted_and_learnable(dimensions):
    config = block(**{name: {"weight": 0.5} for name in FEATURE_TERMS.terms})
    loss = FeatureDistillationLoss(config, CHANNELS, dimensions)
    student, teacher, regions = example(dimensions)
    student = [s.requires_grad_() for s in student]
    terms = loss(student, teacher, regions, 0.0)
    assert set(terms) == set(FEATURE_TERMS.terms)
    assert all(float(v.detach()) > 0 for v in terms.values())
    sum(terms.values()).backward()
    assert all(s.grad.abs().sum() > 0 for s in student)
    assert all(p.grad is not None for p in loss.parameters()), "DDP needs a gradient for every parameter"


def test_terms_are_summed_over_pairs_and_ramped():
    config = block(importance={"weight": 2.0, "ramp": "linear", "ramp_length": 0.5})
    student, teacher, regions = example()
    plain = sum(float(importance_loss(s, t)) for s, t in zip(student, teacher, strict=True))
    loss = FeatureDistillationLoss(config, CHANNELS, 2)
    assert float(loss(student, teacher, regions, 0.25)["importance"]) == pytest.approx(plain, rel=1e-6)
    assert float(loss(student, teacher, regions, 1.0)["importance"]) == pytest.approx(2 * plain, rel=1e-6)


def test_heads_are_where_they_are_needed_only():
    heads = FeatureDistillationLoss(block(hint={"weight": 1}, channel_wise={"weight": 1}), CHANNELS, 3).heads
    assert {name: tuple(head.weight.shape) for name, head in heads.items()} == {
        "hint_0": (5, 3, 1, 1, 1),
        "hint_1": (4, 4, 1, 1, 1),
        "channel_wise_0": (5, 3, 1, 1, 1),
    }
    assert not list(FeatureDistillationLoss(Features(), CHANNELS, 2).parameters())


def test_a_head_that_is_the_right_projection_makes_the_hint_zero():
    loss = FeatureDistillationLoss(block(hint={"weight": 1}), [(3, 5)], 2)
    (student, _), _, regions = example()
    with torch.no_grad():
        teacher = loss.heads["hint_0"](student)
    assert float(loss([student], [teacher], regions, 0.0)["hint"].detach()) == pytest.approx(0, abs=1e-12)


def test_heads_train_inside_ddp(tmp_path):
    """As the trainer wraps them; a parameter without a gradient would make the next step fail."""
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'store'}")
    try:
        loss = FeatureDistillationLoss(block(hint={"weight": 1}, channel_wise={"weight": 1}), CHANNELS, 2)
        wrapped = torch.nn.parallel.DistributedDataParallel(loss)
        for _ in range(3):
            loss.zero_grad()
            sum(wrapped(*example(), 0.0).values()).backward()
            assert all(p.grad is not None for p in loss.parameters())
    finally:
        dist.destroy_process_group()


def test_weights_as_printed_and_their_inverse():
    dice_losses = torch.tensor([0.1, 0.3, 0.4])
    assert teacher_weights("paper", dice_losses).tolist() == pytest.approx([0.125, 0.375, 0.5])
    assert teacher_weights("inverse", dice_losses).tolist() == pytest.approx([0.9 / 2.2, 0.7 / 2.2, 0.6 / 2.2])
    assert teacher_weights("uniform", dice_losses).tolist() == pytest.approx([1 / 3] * 3)
    assert teacher_weights("fixed", dice_losses, (1, 0, 3)).tolist() == pytest.approx([0.25, 0, 0.75])


@pytest.mark.parametrize(("kind", "losses"), [("paper", [0.0, 0.0]), ("inverse", [1.0, 1.0])])
def test_where_there_is_nothing_to_go_by_weights_are_uniform(kind, losses):
    assert teacher_weights(kind, torch.tensor(losses)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("kind", "fixed"), [("median", ()), ("fixed", (1.0,))])
def test_unknown_weights_are_refused(kind, fixed):
    with pytest.raises(ValueError, match="2 teachers"):
        teacher_weights(kind, torch.ones(2), fixed)


def test_dice_losses_of_teachers_count_present_foreground_and_valid_voxels():
    """Class 1: reference 2 voxels, found 1 and no false alarm: Dice 2/3. Class 2 is absent, class 0 is background."""
    reference = torch.tensor([[[[0, 1, 1, 0, 0]]]]) == torch.arange(3).view(1, 3, 1, 1)
    valid = torch.tensor([[[[True, True, True, True, False]]]])
    predicted = torch.tensor([[[[0, 1, 0, 2, 1]]]]) == torch.arange(3).view(1, 3, 1, 1)
    losses = reference_dice_losses([predicted.double(), reference.double()], reference, valid)
    assert losses.tolist() == pytest.approx([1 / 3, 0], abs=1e-4)
    assert float(reference_dice_losses([predicted.double()], reference & False, valid)) == 0
