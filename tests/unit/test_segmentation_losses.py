"""What the losses against the reference promise, and how the reference becomes masks."""

from functools import partial

import pytest
import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1

from nnunet_kd.losses import CompoundSegmentationLoss, dice_loss, focal_loss, lovasz_loss
from nnunet_kd.losses.regions import unpack_reference, with_background
from tests.reference import segmentation_losses as reference

LOSSES = {
    "lovasz": (lovasz_loss, reference.lovasz, {}),
    "focal-2-0.25": (focal_loss, reference.focal, {"gamma": 2.0, "alpha": 0.25}),
    "focal-0-0.5": (focal_loss, reference.focal, {"gamma": 0.0, "alpha": 0.5}),
}
SHAPES = {"2d": (2, 3, 4, 5), "3d": (2, 3, 2, 4, 3)}


def example(shape, sigmoid, seed=0):
    """Float64 logits, classes of the reference, valid voxels; no class where a voxel is not valid."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    classes = torch.rand(shape, generator=generator) > 0.5
    if not sigmoid:
        labels = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), generator=generator)
        classes = labels == torch.arange(shape[1]).view(1, -1, *[1] * (len(shape) - 2))
    valid = torch.rand((shape[0], 1, *shape[2:]), generator=generator) > 0.25
    return logits, classes & valid, valid


@pytest.fixture(params=SHAPES.values(), ids=SHAPES, name="shape")
def _shape(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["softmax", "sigmoid"], name="sigmoid")
def _sigmoid(request):
    return request.param


@pytest.fixture(params=LOSSES, name="name")
def _name(request):
    return request.param


@pytest.fixture(name="loss")
def _loss(name, sigmoid):
    return partial(LOSSES[name][0], **LOSSES[name][2], sigmoid=sigmoid)


def gradient(loss, logits, *args):
    logits = logits.detach().requires_grad_()
    loss(logits, *args).backward()
    return logits.grad


@pytest.mark.parametrize("masked", [False, True])
def test_golden_value_of_the_float64_reference(name, loss, shape, sigmoid, masked):
    logits, classes, valid = example(shape, sigmoid)
    if not masked:
        classes = (
            classes
            if sigmoid
            else logits.argmin(1, keepdim=True) == torch.arange(shape[1]).view(1, -1, *[1] * (len(shape) - 2))
        )
    arguments = (logits.numpy(), classes.numpy(), valid.numpy() if masked else None)
    golden = LOSSES[name][1](*arguments, **LOSSES[name][2], sigmoid=sigmoid)
    assert float(loss(logits, classes, valid if masked else None)) == pytest.approx(golden, rel=1e-9)


@pytest.mark.parametrize("squared", [False, True])
def test_golden_value_of_dice(shape, squared):
    logits, classes, valid = example(shape, False)
    golden = reference.dice(logits.softmax(1).numpy(), classes.numpy(), valid.numpy(), squared)
    assert float(dice_loss(logits.softmax(1), classes, valid, squared=squared)) == pytest.approx(golden, rel=1e-9)


def test_a_perfect_prediction_costs_nothing(loss, shape, sigmoid):
    _, classes, valid = example(shape, sigmoid)
    perfect = 1e4 * (classes.double() - 0.5)
    assert float(loss(perfect, classes, valid)) == pytest.approx(0, abs=1e-12)
    assert float(dice_loss(classes.double(), classes, valid)) == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(gradient(loss, perfect, classes, valid)).all()


def test_a_completely_wrong_prediction_costs_one_in_dice_and_lovasz(shape):
    _, classes, valid = example(shape, True)
    wrong = ~classes & valid
    assert float(dice_loss(wrong.double(), classes, valid)) == pytest.approx(1, abs=1e-5)
    assert float(lovasz_loss(1e4 * (wrong.double() - 0.5), classes, valid, sigmoid=True)) == pytest.approx(1, abs=1e-12)


def test_the_lovasz_loss_of_hard_predictions_is_the_jaccard_loss():
    """Class 1: two voxels, one found and one false alarm: intersection 1, union 3. Class 0: 1 of 3."""
    truth = torch.tensor([[[[1, 1, 0, 0]]]])
    predicted = torch.tensor([[[[1, 0, 1, 0]]]])
    classes, logits = (torch.cat((x == 0, x == 1), 1) for x in (truth, predicted))
    assert float(lovasz_loss(1e4 * (logits.double() - 0.5), classes)) == pytest.approx(2 / 3, rel=1e-12)


def test_focal_without_focusing_is_half_the_cross_entropy():
    logits, classes, _ = example(SHAPES["2d"], False)
    labels = logits.argmin(1)
    classes = labels[:, None] == torch.arange(3).view(1, 3, 1, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels) / 2
    assert float(focal_loss(logits, classes, gamma=0, alpha=0.5)) == pytest.approx(float(expected), rel=1e-12)


def test_masked_voxels_change_neither_value_nor_gradient(loss, shape, sigmoid):
    logits, classes, valid = example(shape, sigmoid)
    dirty = torch.where(valid, logits, float("nan"))
    assert float(loss(dirty, classes, valid)) == float(loss(logits, classes, valid))
    grad = gradient(loss, dirty, classes, valid)
    torch.testing.assert_close(grad, gradient(loss, logits, classes, valid))
    assert (grad.masked_select(~valid) == 0).all()
    assert (grad != 0).any()


def test_without_a_valid_voxel_loss_and_gradient_are_exactly_zero(loss, shape, sigmoid):
    logits, classes, valid = example(shape, sigmoid)
    nothing = torch.zeros_like(valid)
    assert float(loss(logits, classes & nothing, nothing)) == 0
    assert (gradient(loss, logits, classes & nothing, nothing) == 0).all()


def test_a_class_that_the_batch_lacks_does_not_count_in_lovasz():
    logits, classes, valid = example(SHAPES["2d"], True)
    more = torch.cat((logits, logits[:, :1]), 1), torch.cat((classes, torch.zeros_like(classes[:, :1])), 1)
    value = float(lovasz_loss(logits, classes, valid, sigmoid=True))
    assert float(lovasz_loss(*more, valid, sigmoid=True)) == pytest.approx(value, rel=1e-12)


def test_the_order_of_foreground_classes_does_not_matter(loss, shape, sigmoid):
    logits, classes, valid = example(shape, sigmoid)
    value = float(loss(logits[:, [0, 2, 1]], classes[:, [0, 2, 1]], valid))
    assert value == pytest.approx(float(loss(logits, classes, valid)), rel=1e-12)


def test_gradient_agrees_with_finite_differences(loss, sigmoid):
    logits, classes, valid = example((2, 3, 2, 3), sigmoid)
    assert torch.autograd.gradcheck(partial(loss, classes=classes, valid=valid), (logits.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_low_precision_logits_give_finite_float32_values(loss, sigmoid, dtype):
    logits, classes, valid = example(SHAPES["2d"], sigmoid)
    extreme = (6e4 * logits.sign()).to(dtype)
    value = loss(extreme, classes, valid)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(gradient(loss, extreme, classes, valid)).all()


def test_shapes_that_do_not_fit_are_refused(loss, shape, sigmoid):
    logits, classes, valid = example(shape, sigmoid)
    for wrong in ((logits, classes[:, 1:]), (logits, classes, valid[..., 1:])):
        with pytest.raises(ValueError, match=r"\(2, "):
            loss(*wrong)


def test_labels_become_masks_and_everything_beyond_them_is_ignored():
    target = torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]])
    classes, valid = unpack_reference(target, 3, sigmoid=False)
    assert valid[0, 0, 0].tolist() == [True, True, True, False]
    assert classes[0, :, 0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_regions_overlap_and_their_last_channel_is_ignored(dtype):
    target = torch.tensor([[[[1, 1, 0, 1]], [[0, 1, 0, 0]], [[0, 0, 0, 1]]]]).to(dtype)
    classes, valid = unpack_reference(target, 2, sigmoid=True)
    assert valid[0, 0, 0].tolist() == [True, True, True, False]
    assert classes[0, :, 0].tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]
    assert with_background(classes, valid)[0, :, 0].tolist() == [[0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 0, 0]]
    assert unpack_reference(target[:, :2], 2, sigmoid=True)[1].all()


@pytest.mark.parametrize(("channels", "heads", "sigmoid"), [(2, 3, False), (4, 2, True), (1, 2, True)])
def test_a_target_with_other_channels_is_refused(channels, heads, sigmoid):
    with pytest.raises(ValueError, match="target"):
        unpack_reference(torch.zeros(1, channels, 4, 4), heads, sigmoid)


def test_the_compound_loss_is_nnunets_dice_plus_the_other_part():
    logits, classes, valid = (x.float() if x.is_floating_point() else x for x in example(SHAPES["2d"], False))
    labels = torch.where(valid, classes.long().argmax(1, keepdim=True), 3)  # 3: the ignore label
    dice = MemoryEfficientSoftDiceLoss(apply_nonlin=softmax_helper_dim1, batch_dice=True, do_bg=False, ddp=False)
    compound = CompoundSegmentationLoss(dice, lovasz_loss, 0.2, 0.3)
    expected = 0.2 * dice(logits, torch.where(valid, labels, 0), loss_mask=valid) + 0.3 * lovasz_loss(
        logits, classes, valid
    )
    assert float(compound(logits, labels)) == pytest.approx(float(expected), rel=1e-6)
