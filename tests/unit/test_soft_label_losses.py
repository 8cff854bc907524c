"""What every loss between logits and soft labels promises."""

from functools import partial

import numpy as np
import pytest
import torch

from nnunet_kd.losses import (
    KLDivergence,
    MSEOfProbabilities,
    SoftCrossEntropy,
    SoftDiceLoss,
    kl_divergence,
    mse_of_probabilities,
    soft_cross_entropy,
    soft_dice_loss,
)
from nnunet_kd.losses.kl import STORED_FLOOR
from nnunet_kd.losses.soft_labels import Comparison
from tests.reference import soft_label_losses as reference

SHAPES = {"2d": (2, 4, 5, 6), "3d": (2, 4, 3, 4, 5)}
reference_kl = partial(reference.kl_divergence, smallest=STORED_FLOOR)
KL = {
    f"kl-{direction}-T{temperature}": (
        kl_divergence,
        reference_kl,
        {"temperature": temperature, "direction": direction},
    )
    for direction in ("teacher_student", "student_teacher")
    for temperature in (1.0, 2.0, 4.0)
}
DICE = {
    f"soft_dice-{name}": (soft_dice_loss, reference.soft_dice_loss, {"batch_dice": batch_dice})
    for name, batch_dice in (("batch", True), ("sample", False))
}
LOSSES = {
    **KL,
    "mse": (mse_of_probabilities, reference.mse_of_probabilities, {}),
    "soft_ce": (soft_cross_entropy, reference.soft_cross_entropy, {}),
    **DICE,
}
ZERO_AT_EQUALITY = [name for name in LOSSES if name != "soft_ce"]


def probabilities(logits, sigmoid):
    return logits.sigmoid() if sigmoid else logits.softmax(1)


def example(shape, sigmoid, seed=0):
    """Float64 logits, soft labels and a mask with about a quarter of its voxels invalid."""
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    valid = torch.rand((shape[0], 1, *shape[2:]), generator=generator) > 0.25
    return logits, probabilities(teacher, sigmoid), valid


def gradient(loss, logits, *args):
    logits = logits.detach().requires_grad_()
    loss(logits, *args).backward()
    return logits.grad


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys(), name="shape")
def _shape(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["softmax", "sigmoid"], name="sigmoid")
def _sigmoid(request):
    return request.param


@pytest.fixture(params=LOSSES, name="loss")
def _loss(request, sigmoid):
    function, _, options = LOSSES[request.param]
    return partial(function, **options, sigmoid=sigmoid)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("masked", [False, True])
def test_golden_value_of_the_float64_reference(name, shape, sigmoid, masked):
    function, expected, options = LOSSES[name]
    logits, q, valid = example(shape, sigmoid)
    value = function(logits, q, valid if masked else None, **options, sigmoid=sigmoid)
    golden = expected(logits.numpy(), q.numpy(), valid.numpy() if masked else None, **options, sigmoid=sigmoid)
    assert value.shape == ()
    assert float(value) == pytest.approx(golden, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_golden_value_for_soft_labels_as_stored_in_bytes(name, sigmoid):
    function, expected, options = LOSSES[name]
    logits, q, _ = example(SHAPES["2d"], sigmoid)
    q = (probabilities(4 * torch.logit(q), sigmoid) * 255).round() / 255
    assert (q == 0).any(), "no stored zero, the test would prove nothing"
    value = function(logits, q, **options, sigmoid=sigmoid)
    assert float(value) == pytest.approx(
        expected(logits.numpy(), q.numpy(), None, **options, sigmoid=sigmoid), rel=1e-9
    )


def test_the_clip_of_the_teacher_stays_below_half_a_stored_step():
    assert 0 < STORED_FLOOR < 1 / 510


@pytest.mark.parametrize("name", ZERO_AT_EQUALITY)
def test_zero_value_and_gradient_where_student_equals_teacher(name, shape, sigmoid):
    function, _, options = LOSSES[name]
    loss = partial(function, **options, sigmoid=sigmoid)
    logits, _, valid = example(shape, sigmoid)
    logits = logits.clamp(-2, 2)  # all probabilities above the clip
    q = probabilities(logits, sigmoid)
    assert float(loss(logits, q, valid)) == pytest.approx(0, abs=1e-12)
    assert gradient(loss, logits, q, valid).abs().max() < 1e-12
    assert float(loss(logits + torch.randn_like(logits), q, valid)) > 1e-3


def test_cross_entropy_is_smallest_at_equality_and_there_the_teachers_entropy(shape, sigmoid):
    logits, _, valid = example(shape, sigmoid)
    q = probabilities(logits, sigmoid)
    entropy = torch.special.entr(q) + (torch.special.entr(1 - q) if sigmoid else 0)
    expected = float((entropy.sum(1, keepdim=True) * valid).sum() / valid.sum())
    assert float(soft_cross_entropy(logits, q, valid, sigmoid=sigmoid)) == pytest.approx(expected, rel=1e-9)
    assert gradient(partial(soft_cross_entropy, sigmoid=sigmoid), logits, q, valid).abs().max() < 1e-12


def test_a_larger_batch_or_image_of_the_same_content_has_the_same_loss(loss, shape, sigmoid):
    inputs = example(shape, sigmoid)
    value = float(loss(*inputs))
    for axis in (0, *range(2, len(shape))):
        assert float(loss(*(torch.cat((x, x), axis) for x in inputs))) == pytest.approx(value, rel=1e-5)


def test_the_order_of_classes_does_not_matter(loss, shape, sigmoid):
    order = [2, 3, 0, 1] if sigmoid else [0, 3, 1, 2]  # Dice leaves the background out, which stays first
    logits, q, valid = example(shape, sigmoid)
    assert float(loss(logits[:, order], q[:, order], valid)) == pytest.approx(float(loss(logits, q, valid)), rel=1e-12)
    permuted = gradient(loss, logits[:, order], q[:, order], valid)
    torch.testing.assert_close(permuted, gradient(loss, logits, q, valid)[:, order], rtol=1e-10, atol=1e-14)


def test_masked_voxels_change_neither_value_nor_gradient(loss, shape, sigmoid):
    logits, q, valid = example(shape, sigmoid)
    other_logits = torch.where(valid, logits, 1e4 * torch.randn_like(logits))
    other_q = torch.where(valid, q, 0)
    assert float(loss(other_logits, other_q, valid)) == float(loss(logits, q, valid))
    ours, theirs = gradient(loss, logits, q, valid), gradient(loss, other_logits, other_q, valid)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert (ours.masked_select(~valid) == 0).all()
    assert (ours.masked_select(valid) != 0).any()


def test_a_mask_may_be_bool_or_float_and_a_full_one_is_no_mask(loss, shape, sigmoid):
    logits, q, valid = example(shape, sigmoid)
    assert float(loss(logits, q, valid)) == float(loss(logits, q, valid.float()))
    assert float(loss(logits, q, torch.ones_like(valid))) == float(loss(logits, q))


def test_without_a_valid_voxel_loss_and_gradient_are_exactly_zero(loss, shape, sigmoid):
    logits, q, valid = example(shape, sigmoid)
    nothing = torch.zeros_like(valid)
    assert float(loss(logits, 0 * q, nothing)) == 0
    assert (gradient(loss, logits, 0 * q, nothing) == 0).all()


def test_soft_labels_get_no_gradient(loss, shape, sigmoid):
    logits, q, valid = example(shape, sigmoid)
    q.requires_grad_()
    loss(logits.requires_grad_(), q, valid).backward()
    assert q.grad is None
    assert logits.grad.abs().sum() > 0


def test_gradient_agrees_with_finite_differences(loss, sigmoid):
    logits, q, valid = example((2, 3, 2, 3), sigmoid)
    assert torch.autograd.gradcheck(partial(loss, soft_labels=q, valid=valid), (logits.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_inputs_are_computed_in_float32(loss, shape, sigmoid, dtype):
    logits, q, valid = (x.to(dtype) if x.is_floating_point() else x for x in example(shape, sigmoid))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, q, valid)
    assert value.dtype == torch.float32
    assert float(value) == float(loss(logits.float(), q.float(), valid))


@pytest.mark.parametrize(("dtype", "extreme"), [(torch.float16, 6e4), (torch.float16, 1e4), (torch.bfloat16, 1e4)])
def test_extreme_logits_give_finite_values_and_gradients(loss, sigmoid, dtype, extreme):
    logits, q, valid = example(SHAPES["2d"], sigmoid)
    logits, q = (extreme * logits.sign()).to(dtype), q.round().to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(loss(logits, q, valid))
        assert torch.isfinite(gradient(loss, logits, q, valid)).all()


def test_a_class_that_teacher_and_student_lack_costs_no_dice():
    q = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    q[:, 0, :4], q[:, 1, 4:] = 1, 1
    assert float(soft_dice_loss(1e3 * (q - 0.5), q)) == pytest.approx(0, abs=1e-12)


def test_temperature_squared_keeps_the_gradient_of_nearly_equal_distributions_comparable():
    logits, _, _ = example(SHAPES["2d"], False)
    logits = 0.1 * logits
    q = probabilities(logits + 0.01 * torch.randn_like(logits), False)
    norms = [float(gradient(lambda z, t=t: kl_divergence(z, q, temperature=t), logits).norm()) for t in (1.0, 2.0, 8.0)]
    np.testing.assert_allclose(norms, norms[0], rtol=0.1)


def test_shapes_that_do_not_fit_are_refused(loss, shape, sigmoid):
    logits, q, valid = example(shape, sigmoid)
    for wrong in ((logits, q[:, 1:]), (logits, q[..., 1:]), (logits, q, valid[..., 1:]), (logits, q, valid[:, 0])):
        with pytest.raises(ValueError, match=r"\(2, "):
            loss(*wrong)


def test_an_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="sideways"):
        kl_divergence(torch.zeros(1, 2, 3, 3), torch.full((1, 2, 3, 3), 0.5), direction="sideways")


@pytest.mark.parametrize("name", ["kl-teacher_student-T2.0", "mse", "soft_ce", "soft_dice-batch"])
def test_compiles_as_one_graph(name, sigmoid):
    function, _, options = LOSSES[name]
    loss = partial(function, **options, sigmoid=sigmoid)
    inputs = example(SHAPES["2d"], sigmoid)
    torch._dynamo.reset()
    assert float(torch.compile(loss, backend="eager", fullgraph=True)(*inputs)) == float(loss(*inputs))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
def test_garbage_in_masked_voxels_never_leaks(loss, shape, sigmoid, garbage):
    logits, q, valid = example(shape, sigmoid)
    outside = (~valid).expand_as(logits)
    dirty_logits, dirty_q = logits.masked_fill(outside, garbage), q.masked_fill(outside, garbage)
    assert float(loss(dirty_logits, dirty_q, valid)) == pytest.approx(float(loss(logits, q, valid)), rel=1e-12)
    clean = gradient(loss, logits, q, valid)
    torch.testing.assert_close(gradient(loss, dirty_logits, dirty_q, valid), clean)
    assert (clean[outside] == 0).all()


@pytest.mark.parametrize(
    ("module", "function", "options"),
    [
        (KLDivergence, kl_divergence, {"temperature": 3.0, "direction": "student_teacher"}),
        (MSEOfProbabilities, mse_of_probabilities, {}),
        (SoftCrossEntropy, soft_cross_entropy, {}),
        (SoftDiceLoss, soft_dice_loss, {"batch_dice": False, "smooth": 0.1}),
    ],
)
def test_module_equals_function(module, function, options, shape, sigmoid):
    logits, q, valid = example(shape, sigmoid)
    expected = function(logits, q, valid, **options, sigmoid=sigmoid)
    assert float(module(**options, sigmoid=sigmoid)(logits, q, valid)) == float(expected)


@pytest.mark.parametrize("module", [KLDivergence, MSEOfProbabilities, SoftCrossEntropy])
def test_voxels_that_all_count_little_have_the_loss_of_voxels_that_count_fully(module, shape, sigmoid):
    logits, q, valid = example(shape, sigmoid)
    loss, weights = module(sigmoid=sigmoid), torch.full_like(logits[:, :1], 1e-4)
    little = loss.compare(Comparison(logits, q, valid, sigmoid, weights))
    assert float(little) == pytest.approx(float(loss(logits, q, valid)), rel=1e-9)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    logits, q, _ = example(SHAPES["2d"], False)
    with pytest.raises(ValueError, match="temperature"):
        kl_divergence(logits, q, temperature=temperature)


def test_a_softmax_without_foreground_has_no_dice():
    logits, q, _ = example((1, 1, 4, 4), False)
    with pytest.raises(ValueError, match="foreground"):
        soft_dice_loss(logits, q)
