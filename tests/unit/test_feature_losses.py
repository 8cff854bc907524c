"""What every loss between features promises."""

from functools import partial

import numpy as np
import pytest
import torch

from nnunet_kd.losses import (
    attention_transfer_loss,
    channel_wise_loss,
    hint_loss,
    importance_loss,
    intra_class_loss,
    pairwise_loss,
    region_affinity_loss,
    similarity_loss,
)
from nnunet_kd.losses.affinity import pooled_grid
from nnunet_kd.losses.features import rescale
from nnunet_kd.losses.regions import resize_regions
from tests.reference import feature_losses as reference

# name -> (loss, reference, options of both, needs equal channels, needs regions)
LOSSES = {
    **{
        f"importance-p{exponent}-{scale}": (
            importance_loss, reference.importance, {"exponent": exponent, "scale": scale}, False, False
        )
        for exponent, scale in ((2.0, "paper"), (2.0, "size_free"), (4.0, "paper"))
    },
    "attention": (attention_transfer_loss, reference.attention, {"exponent": 2.0}, False, False),
    "hint": (hint_loss, reference.hint, {}, True, False),
    "channel_wise": (channel_wise_loss, reference.channel_wise, {"temperature": 4.0}, True, False),
    "pairwise": (pairwise_loss, None, {"positions": 12}, False, False),
    "similarity": (similarity_loss, reference.similarity, {}, False, False),
    "intra_class": (intra_class_loss, reference.intra_class, {}, False, True),
    **{
        f"region_affinity-{form}-{norm}": (
            region_affinity_loss, reference.region_affinity, {"form": form, "norm": norm}, False, True
        )
        for form, norm in (("mean", 2), ("vector", 1), ("vector", 2))
    },
}  # fmt: skip
WITH_REGIONS = [n for n in LOSSES if LOSSES[n][4]]
SCALE_INVARIANT = [n for n in LOSSES if not LOSSES[n][3]]
INDEPENDENT_OF_BATCH = [n for n in LOSSES if n != "similarity"]
# student's spatial shape, teacher's spatial shape, shape of the reference
SIZES = {
    "2d": ((6, 4), (6, 4), (6, 4)),
    "2d student larger": ((6, 8), (3, 4), (12, 8)),
    "3d": ((2, 4, 3), (2, 4, 3), (4, 8, 6)),
    "3d student smaller": ((2, 2, 3), (4, 2, 6), (4, 4, 6)),
    "3d one axis larger, one smaller": ((4, 2, 3), (2, 4, 3), (4, 4, 3)),
}


def example(name, sizes, seed=0, batch=3, classes=4):
    """Float64 features of both networks and, where the loss wants them, masks with an ignored voxel or two."""
    generator = torch.Generator().manual_seed(seed)
    student_shape, teacher_shape, reference_shape = sizes
    channels = (5, 5) if LOSSES[name][3] else (5, 7)
    features = [
        torch.randn((batch, c, *s), generator=generator, dtype=torch.float64)
        for c, s in zip(channels, (student_shape, teacher_shape), strict=True)
    ]
    if not LOSSES[name][4]:
        return features
    labels = torch.randint(0, classes + 1, (batch, 1, *reference_shape), generator=generator)
    labels[0][labels[0] == 2] = 1  # the first image lacks class 2
    return [*features, labels == torch.arange(classes).view(1, -1, *[1] * len(reference_shape))]


def bound(name):
    function, _, options, _, _ = LOSSES[name]
    return partial(function, **options)


def gradient(loss, student, *others):
    student = student.detach().requires_grad_()
    loss(student, *others).backward()
    return student.grad


@pytest.fixture(params=SIZES.values(), ids=SIZES, name="sizes")
def _sizes(request):
    return request.param


@pytest.fixture(params=LOSSES, name="name")
def _name(request):
    return request.param


def test_golden_value_of_the_float64_reference(name, sizes):
    inputs = example(name, sizes)
    arrays = [x.numpy() for x in inputs]
    if name == "pairwise":
        golden = reference.pairwise(*arrays, pooled_grid([min(p) for p in zip(*sizes[:2], strict=True)], 12))
    else:
        golden = LOSSES[name][1](*arrays, **LOSSES[name][2])
    assert golden > 1e-3, "the example would prove nothing"
    value = bound(name)(*inputs)
    assert value.shape == ()
    assert float(value) == pytest.approx(golden, rel=1e-9)


def test_zero_value_and_finite_gradient_at_equality(name):
    student, *others = example(name, SIZES["3d"])
    assert float(bound(name)(student, student, *others[1:])) == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(gradient(bound(name), student, student, *others[1:])).all()


@pytest.mark.parametrize("name", SCALE_INVARIANT)
def test_the_scale_of_either_networks_features_does_not_matter(name, sizes):
    student, teacher, *regions = example(name, sizes)
    value = float(bound(name)(student, teacher, *regions))
    assert float(bound(name)(3 * student, 0.2 * teacher, *regions)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", SCALE_INVARIANT)
def test_the_order_of_the_students_channels_does_not_matter(name):
    student, *others = example(name, SIZES["2d"])
    value = float(bound(name)(student, *others))
    assert float(bound(name)(student.flip(1), *others)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", WITH_REGIONS)
def test_the_order_of_the_classes_does_not_matter(name, sizes):
    student, teacher, regions = example(name, sizes)
    value = float(bound(name)(student, teacher, regions))
    assert float(bound(name)(student, teacher, regions[:, [2, 0, 3, 1]])) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", WITH_REGIONS)
def test_a_class_that_no_image_has_changes_nothing(name, sizes):
    student, teacher, regions = example(name, sizes)
    more = torch.cat((regions, torch.zeros_like(regions[:, :2])), 1)
    value = float(bound(name)(student, teacher, regions))
    assert float(bound(name)(student, teacher, more)) == pytest.approx(value, rel=1e-12)
    assert torch.isfinite(gradient(bound(name), student, teacher, more)).all()


@pytest.mark.parametrize("name", WITH_REGIONS)
def test_ignored_voxels_change_neither_value_nor_gradient(name):
    student, teacher, regions = example(name, SIZES["2d"])
    ignored = ~regions.any(1, keepdim=True)
    assert ignored.any()
    other = torch.where(ignored, 1e3 * torch.ones_like(student), student)
    value = float(bound(name)(student, teacher, regions))
    assert float(bound(name)(other, teacher, regions)) == pytest.approx(value, rel=1e-9)
    grad = gradient(bound(name), student, teacher, regions)
    assert (grad.masked_select(ignored) == 0).all()
    assert (grad != 0).any()


@pytest.mark.parametrize("name", WITH_REGIONS)
def test_without_any_class_loss_and_gradient_are_exactly_zero(name):
    student, teacher, regions = example(name, SIZES["3d"])
    nothing = torch.zeros_like(regions)
    assert float(bound(name)(student, teacher, nothing)) == 0
    assert (gradient(bound(name), student, teacher, nothing) == 0).all()


def test_an_image_of_one_class_does_not_count_in_region_affinity():
    student, teacher, regions = example("region_affinity-mean-2", SIZES["2d"])
    alone = torch.zeros_like(regions[:1])
    alone[:, 1] = True
    more = torch.cat((regions, alone)), torch.cat((student, student[:1])), torch.cat((teacher, teacher[:1]))
    value = float(region_affinity_loss(student, teacher, regions))
    assert float(region_affinity_loss(more[1], more[2], more[0])) == pytest.approx(value, rel=1e-12)


def test_two_classes_give_the_difference_of_one_cosine():
    """Mean features (1, 0) and (0, 1) for the student, (1, 0) and (1, 1) for the teacher: |0 - sqrt(1/2)|."""
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    teacher = torch.tensor([[[[1.0, 1.0]], [[0.0, 1.0]]]])
    regions = torch.tensor([[[[True, False]], [[False, True]]]])
    for form, norm in (("mean", 1), ("mean", 2), ("vector", 1), ("vector", 2)):
        value = region_affinity_loss(student, teacher, regions, form=form, norm=norm)
        assert float(value) == pytest.approx(0.5**0.5, rel=1e-6)


@pytest.mark.parametrize("name", INDEPENDENT_OF_BATCH)
def test_a_batch_twice_has_the_same_loss(name):
    inputs = example(name, SIZES["2d"])
    value = float(bound(name)(*inputs))
    assert float(bound(name)(*(torch.cat((x, x)) for x in inputs))) == pytest.approx(value, rel=1e-9)


def test_the_size_free_importance_loss_does_not_depend_on_the_image_size():
    student, teacher = example("attention", SIZES["2d"])
    doubled = [torch.cat((x, x), 2) for x in (student, teacher)]
    size_free, paper = (partial(importance_loss, scale=s) for s in ("size_free", "paper"))
    assert float(size_free(*doubled)) == pytest.approx(float(size_free(student, teacher)), rel=1e-9)
    assert float(paper(*doubled)) == pytest.approx(2**0.5 * float(paper(student, teacher)), rel=1e-9)
    assert 0 < float(size_free(student, teacher)) < 2


def test_similarity_of_one_image_is_zero():
    student, teacher = example("similarity", SIZES["2d"], batch=1)
    assert float(similarity_loss(student, teacher)) == 0


def test_the_teacher_gets_no_gradient(name, sizes):
    student, teacher, *regions = example(name, sizes)
    teacher.requires_grad_()
    bound(name)(student.requires_grad_(), teacher, *regions).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_gradient_agrees_with_finite_differences(name):
    student, *others = example(name, ((2, 3), (2, 3), (2, 3)), seed=4, batch=2, classes=2)
    loss = bound(name)
    assert torch.autograd.gradcheck(lambda s: loss(s, *others), (student.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_features_are_computed_in_float32(name, dtype):
    student, teacher, *regions = example(name, SIZES["3d"])
    student, teacher = student.to(dtype), teacher.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = bound(name)(student, teacher, *regions)
    assert value.dtype == torch.float32
    assert float(value) == float(bound(name)(student.float(), teacher.float(), *regions))


def test_features_of_nothing_but_zeros_stay_finite(name):
    student, teacher, *regions = example(name, SIZES["2d"])
    for s, t in ((0 * student, teacher), (student, 0 * teacher), (0 * student, 0 * teacher)):
        assert torch.isfinite(bound(name)(s, t, *regions))
        assert torch.isfinite(gradient(bound(name), s, t, *regions)).all()


def test_shapes_that_are_no_pair_are_refused(name):
    student, teacher, *regions = example(name, SIZES["2d"])
    wrong = [(student[:1], teacher), (student[..., 0], teacher[..., 0]), (student[..., None], teacher)]
    if LOSSES[name][3]:
        wrong.append((student[:, 1:], teacher))
    for s, t in wrong:
        with pytest.raises(ValueError, match="student"):
            bound(name)(s, t, *regions)
    if regions:
        with pytest.raises(ValueError, match="regions"):
            bound(name)(student, teacher, regions[0][:1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(importance_loss, scale="other"), "scale 'other'"),
        (partial(channel_wise_loss, temperature=0), "temperature 0"),
        (partial(region_affinity_loss, regions=torch.ones(1, 2, 4, 4) > 0, form="sum"), "form 'sum'"),
        (partial(region_affinity_loss, regions=torch.ones(1, 2, 4, 4) > 0, norm=3), "norm 3"),
        (partial(region_affinity_loss, regions=torch.ones(1, 1, 4, 4) > 0), "K >= 2"),
    ],
)
def test_arguments_that_are_not_allowed_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize("name", ["importance-p2.0-size_free", "region_affinity-vector-2", "intra_class", "pairwise"])
def test_compiles_as_one_graph(name):
    inputs = example(name, SIZES["2d student larger"])
    torch._dynamo.reset()
    compiled = torch.compile(bound(name), backend="eager", fullgraph=True)
    assert float(compiled(*inputs)) == float(bound(name)(*inputs))


def test_pooled_grids_halve_the_longest_axis():
    assert pooled_grid([40, 56, 40], 512) == [5, 7, 10]
    assert pooled_grid([256, 256], 512) == [16, 32]
    assert pooled_grid([7, 5], 512) == [7, 5]


def test_rescaling_keeps_the_mean_where_it_pools_and_the_values_where_it_repeats():
    features = torch.rand(2, 3, 4, 6, dtype=torch.float64)
    assert rescale(features, (4, 6)) is features
    torch.testing.assert_close(rescale(features, (2, 3)).mean((2, 3)), features.mean((2, 3)))
    torch.testing.assert_close(rescale(features, (8, 6)), features.repeat_interleave(2, 2))


def test_masks_are_resized_by_the_centres_of_voxels():
    mask = torch.tensor([[[[True, False, False, True]]]])
    np.testing.assert_array_equal(resize_regions(mask, (1, 2))[0, 0, 0], [False, True])
    np.testing.assert_array_equal(resize_regions(mask, (1, 8))[0, 0, 0], [1, 1, 0, 0, 0, 0, 1, 1])
