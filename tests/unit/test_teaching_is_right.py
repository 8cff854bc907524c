"""What the teachers say reaches the student unchanged: compared with formulas and with nnU-Net's own prediction.

``benchmarks/mutants.yaml`` lists the mistakes that these tests were written against.
"""

import copy

import pytest
import torch
from torch.nn import functional as F

from tests.unit.small_trainings import (
    EPOCHS,
    NO_FEATURES,
    TEACHER,
    make_teacher,
    merged,
    network_of,
    random_batch,
    start,
    step,
    weights_of,
    world,
)

OUTPUT_WEIGHTS = (2 / 3, 1 / 3)  # nnU-Net's 1, 1/2 and 0 of the lowest, normalised
TERMS = {
    "kl": {"weight": 0.5, "temperature": 3.0},
    "mse": {"weight": 2.0},
    "soft_ce": {"weight": 0.25, "ramp": "none"},
    "soft_dice": {"weight": 4.0, "ramp": "none", "batch_dice": False},
}
DROPOUT = {"dropout_op": "torch.nn.modules.dropout.Dropout3d", "dropout_op_kwargs": {"p": 0.5, "inplace": False}}
BATCH_NORM = {"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}


@pytest.fixture(scope="module", name="toy")
def _toy(tmp_path_factory):
    with world(tmp_path_factory.mktemp("world")) as toy:
        yield toy


def soft_label_terms(logits, t, weights, direction="teacher_student", temperature=3.0, tempered=None):
    """Values of kl, mse, soft_ce and soft_dice by their formulas.

    Logits, teachers' probabilities and tempered ones, where they are known, (B, C, *spatial); weights (B, *spatial).
    """
    z, t, weights = logits.double(), t.double(), weights.double()
    log_p, log_pt, log_qt = z.log_softmax(1), (z / temperature).log_softmax(1), (t.log() / temperature).log_softmax(1)
    log_qt = log_qt if tempered is None else tempered.double().log()
    p, count = log_p.exp(), weights.sum()
    a, b = (log_qt, log_pt) if direction == "teacher_student" else (log_pt, log_qt)
    kl = temperature**2 * ((a.exp() * (a - b)).sum(1) * weights).sum() / count
    mse = ((p - t).square().mean(1) * weights).sum() / count
    soft_ce = -((t * log_p).sum(1) * weights).sum() / count
    p, t, space = p[:, 1:], t[:, 1:], (2, 3, 4)
    overlap, squares = ((x * weights[:, None]).sum(space) for x in (p * t, p.square() + t.square()))
    soft_dice = 1 - ((2 * overlap + 1e-5) / (squares + 1e-5)).mean()
    return {"kl": kl, "mse": mse, "soft_ce": soft_ce, "soft_dice": soft_dice}


def halved(t, inside):
    """Soft labels and mask at half the resolution: the mean of what is inside, where at least half is."""
    share = F.avg_pool3d(inside[:, None].double(), 2)
    return F.avg_pool3d(t.double() * inside[:, None], 2) / share.clamp_min(1e-9), share[:, 0] >= 0.5


def certainty(t):
    """(C max t - 1) / (C - 1), (B, *spatial)."""
    return (t.shape[1] * t.amax(1) - 1) / (t.shape[1] - 1)


def expected_terms(outputs, t, inside, weigh=lambda t: 1.0, direction="teacher_student", tempered=None):
    """All four terms, summed over the two outputs that count and weighted as in TERMS."""
    sums = dict.fromkeys(TERMS, 0.0)
    lower = halved(t, inside), None if tempered is None else halved(tempered, inside)[0]
    for logits, weight, ((labels, mask), q) in zip(
        outputs, OUTPUT_WEIGHTS, (((t, inside), tempered), lower), strict=False
    ):
        labels = torch.where(mask[:, None], labels.double(), 1 / labels.shape[1])  # any distribution: it is not counted
        for name, value in soft_label_terms(logits, labels, mask * weigh(labels), direction, tempered=q).items():
            sums[name] += weight * TERMS[name]["weight"] * float(value)
    return sums


def assert_terms(found, expected):
    for name, value in expected.items():
        assert found[f"kd_{name}"] == pytest.approx(value, rel=2e-3), name


def soft_labels(cases, seed=2):
    """Random soft labels without small probabilities, and a mask that is 0 at one side of the patch."""
    generator = torch.Generator().manual_seed(seed)
    t = (2 * torch.randn(cases, 3, 16, 16, 16, generator=generator)).softmax(1) * 0.85 + 0.05
    inside = torch.ones(cases, 16, 16, 16, dtype=torch.bool)
    inside[:, :5] = False
    inside[0] = True
    return t, inside


def with_channels(batch, *teachers):
    """The batch of a student with stored soft labels: foreground and mask of each teacher behind the images."""
    channels = [torch.cat((t[:, 1:] * inside[:, None], inside[:, None]), 1) for t, inside in teachers]
    return {**batch, "data": torch.cat((batch["data"], *channels), 1)}


def outputs_of(trainer, batch):
    with torch.no_grad():
        return trainer.network(batch["data"][:, :1])


@pytest.mark.parametrize(
    ("voxel_weight", "direction"), [("none", "teacher_student"), ("confidence", "student_teacher")]
)
def test_stored_soft_labels_enter_by_their_formulas_and_unlabeled_cases_not_the_hard_loss(toy, voxel_weight, direction):
    kd = {"distillation": TERMS, "unlabeled": {"voxel_weight": voxel_weight}}
    trainer = start(toy, "ensemble", kd, {"distillation": {"kl": {"direction": direction}}}, batch_size=4)
    batch, (t, inside) = random_batch(4), soft_labels(4)
    batch["target"] = [torch.where(torch.arange(4).view(4, 1, 1, 1, 1) < 2, x, 1.0) for x in batch["target"]]
    outputs = outputs_of(trainer, batch)
    found = step(trainer, with_channels(batch, (t, inside)))
    unlabeled = (torch.arange(4) >= 2).view(4, 1, 1, 1)

    def weigh(t):
        return torch.where(unlabeled, certainty(t), 1.0) if voxel_weight == "confidence" else 1.0

    assert_terms(found, expected_terms(outputs, t, inside, weigh, direction))
    hard = trainer.loss([o[:2] for o in outputs], [x[:2] for x in batch["target"]])
    assert found["kd_hard"] == pytest.approx(float(hard), rel=1e-4)


@pytest.mark.parametrize("without", ["nothing", "unlabeled cases", "ignored voxels", "any hard-label loss"])
def test_soft_labels_that_fade_stay_where_there_is_no_reference(toy, without):
    batch, (t, inside) = random_batch(4), soft_labels(4)
    known, kd = torch.ones(4, 16, 16, 16, dtype=torch.bool), {"unlabeled": {"fraction": 0.0}}
    if without == "unlabeled cases":
        kd["unlabeled"] = {"fraction": 0.5}
        known[2:] = False
    elif without == "ignored voxels":
        known[0], known[1, :, :, :8] = False, False
        for target, s in zip(batch["target"], (1, 2, 4), strict=True):
            target[~known[:, None, ::s, ::s, ::s]] = 3
    elif without == "any hard-label loss":
        kd["hard_loss"] = {"weight": 0.0}
        known[:] = False
    fading = {"distillation": merged(TERMS, {key: {"ramp": "fade"} for key in ("soft_ce", "soft_dice")})}
    trainer = start(toy, "ensemble", kd, fading, batch_size=4)
    if without == "ignored voxels":
        trainer.label_manager._ignore_label = 3
        trainer.loss = trainer._build_loss()
    outputs = outputs_of(trainer, batch)
    found = step(trainer, with_channels(batch, (t, inside)), epoch=3)
    weights = torch.where(known, 1 - 3 / EPOCHS, 1.0).double()
    weighed = expected_terms(outputs, t, inside, lambda t: weights if t.shape[-1] == 16 else F.avg_pool3d(weights, 2))
    left = float(weights.mean())
    assert_terms(found, {name: left * weighed[name] for name in ("soft_ce", "soft_dice")})
    constant = expected_terms(outputs, t, inside)
    assert_terms(found, {name: constant[name] for name in ("kl", "mse")})


def test_what_is_outside_the_image_has_no_effect(toy):
    trainer = start(toy, "ensemble", {"distillation": TERMS}, batch_size=4)
    batch, (t, inside) = random_batch(4), soft_labels(4)
    whole = with_channels(batch, (t, inside))
    found = step(trainer, whole)
    whole["data"][:, 1:-1] += torch.rand(4, 2, 16, 16, 16) * ~inside[:, None]
    again = step(trainer, whole)
    assert {k: v for k, v in again.items() if k != "loss"} == {k: v for k, v in found.items() if k != "loss"}


@pytest.mark.parametrize("kind", ["dropout", "batch norm"])
@pytest.mark.parametrize("training", ["feature", "several"])
def test_teachers_in_memory_teach_as_they_predict(toy, kind, training):
    folder = make_teacher(toy, "Moody", (0,), **(DROPOUT if kind == "dropout" else BATCH_NORM))
    trainer = start(toy, training, {"teachers": [{"folder": folder.name, "folds": [0]}], "distillation": TERMS})
    batch = random_batch(3)
    outputs = outputs_of(trainer, batch)
    with torch.no_grad():
        teacher = network_of(folder)(batch["data"])
    inside = torch.ones(3, 16, 16, 16, dtype=torch.bool)
    expected = expected_terms(outputs, teacher.softmax(1), inside, tempered=(teacher / 3).softmax(1))
    for _ in range(2):
        found = step(trainer, batch)
        assert_terms(found, expected)
        assert found["kd_hard"] == pytest.approx(float(trainer.loss(outputs, batch["target"])), rel=1e-4)


@pytest.mark.parametrize("training", ["feature", "several"])
def test_unlabeled_cases_have_teachers_in_memory_but_no_reference(toy, training):
    kd = {"distillation": TERMS, "unlabeled": {"fraction": 0.5}, "multi_teacher": {"weights": "inverse"}}
    trainer = start(toy, training, kd if training == "several" else {**kd, "multi_teacher": {}}, batch_size=4)
    batch = random_batch(4)
    outputs = outputs_of(trainer, batch)
    found = step(trainer, batch)
    hard = trainer.loss([o[:2] for o in outputs], [x[:2] for x in batch["target"]])
    assert found["kd_hard"] == pytest.approx(float(hard), rel=1e-4)
    batch["target"] = [torch.where(torch.arange(4).view(4, 1, 1, 1, 1) < 2, x, 1.0) for x in batch["target"]]
    assert step(trainer, batch) == found, "what stands for the reference of an unlabeled case counts nowhere"
    weights = found["kd_teacher_weights"]
    with torch.no_grad():
        logits = [network_of(toy.results / TEACHER, f)(batch["data"]) for f in range(len(weights))]
    mean, tempered = (sum(w * (z / t).softmax(1) for w, z in zip(weights, logits, strict=True)) for t in (1, 3))
    inside = torch.ones(4, 16, 16, 16, dtype=torch.bool)
    assert_terms(found, expected_terms(outputs, mean, inside, tempered=tempered))


@pytest.mark.parametrize("training", ["several", "several, stored"])
def test_several_teachers_teach_their_weighted_mean(toy, training):
    trainer = start(
        toy, training, {"distillation": TERMS, "multi_teacher": {"weights": "fixed", "fixed_weights": [3, 1]}}
    )
    batch, inside = random_batch(2), torch.ones(2, 16, 16, 16, dtype=torch.bool)
    with torch.no_grad():
        logits = [network_of(toy.results / TEACHER, f)(batch["data"]) for f in (0, 1)]
    first, second = (z.softmax(1) for z in logits)
    tempered = 0.75 * (logits[0] / 3).softmax(1) + 0.25 * (logits[1] / 3).softmax(1)
    if training == "several, stored":
        (first, inside), (second, _), tempered = soft_labels(2), soft_labels(2, seed=3), None
    assert (first - second).abs().mean() > 0.05
    outputs = outputs_of(trainer, batch)
    found = step(trainer, batch if training == "several" else with_channels(batch, (first, inside), (second, inside)))
    assert_terms(found, expected_terms(outputs, 0.75 * first + 0.25 * second, inside, tempered=tempered))
    assert found["kd_teacher_weights"] == pytest.approx([0.75, 0.25])


def test_feature_terms_follow_the_weights_of_the_teachers(toy):
    batch = random_batch(2)
    features = {t: {"weight": 0.5} for t in ("importance", "region_affinity", "attention", "intra_class")}

    def terms(*weights):
        kd = {"features": features, "multi_teacher": {"weights": "fixed", "fixed_weights": weights}}
        return step(start(toy, "several", kd), batch)

    first, second, mixed = terms(1, 0), terms(0, 1), terms(3, 1)
    for name in features:
        a, b = first[f"kd_{name}"], second[f"kd_{name}"]
        assert abs(a - b) > 0.02 * a, "the two teachers differ"
        assert mixed[f"kd_{name}"] == pytest.approx(0.75 * a + 0.25 * b, rel=1e-4), name


def dice_loss(logits, labels):
    """1 - Dice of the foreground against labels (B, *spatial); sums over the batch, nothing squared."""
    p = logits.softmax(1)[:, 1:]
    y = F.one_hot(labels, 3).movedim(-1, 1)[:, 1:]
    overlap, total = ((x).sum((0, 2, 3, 4)) for x in (p * y, p + y))
    return float(1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean())


def test_cross_teaching_learns_references_on_labeled_and_pseudo_labels_on_unlabeled_cases(toy, tmp_path):
    kd = {
        "distillation": {"weight": 3.0, "ramp": "none", "temperature": 2.0, "direction": "student_teacher"},
        "unlabeled": {"weight": 0.5, "ramp": "none"},
        "cross_teaching_weight": 0.25,
        "pseudo_supervision_weight": 4.0,
    }
    trainer = start(toy, "cross teaching", {"cross_teaching": kd})
    weights = weights_of(trainer, tmp_path)
    student, first, second = (copy.deepcopy(trainer.network) for _ in range(3))
    first.load_state_dict(weights["peer 0"], strict=False)
    second.load_state_dict(weights["peer 1"], strict=False)
    batch = random_batch(4)
    batch["target"] = torch.where(torch.arange(4).view(4, 1, 1, 1, 1) < 2, batch["target"][0], 1.0)
    with torch.no_grad():
        outputs = [n(batch["data"]) for n in (student, first, second)]
    found = step(trainer, batch)

    for name, logits in zip(("hard", "hard_teacher1", "hard_teacher2"), outputs, strict=True):
        expected = float(trainer.loss(logits[:2], batch["target"][:2]))
        assert found[f"kd_{name}"] == pytest.approx(expected, rel=1e-4), name
    mean, everywhere = (outputs[1].softmax(1) + outputs[2].softmax(1)) / 2, torch.ones(4, 16, 16, 16)
    for name, part, weight in (("", slice(2), 3.0), ("_unlabeled", slice(2, 4), 1.5)):
        kl = soft_label_terms(outputs[0][part], mean[part], everywhere[part], "student_teacher", 2.0)["kl"]
        assert found[f"kd_distillation{name}"] == pytest.approx(weight * float(kl), rel=1e-4)
    pseudo = [o[2:].argmax(1) for o in outputs[1:]]
    crossed = dice_loss(outputs[1][2:], pseudo[1]) + dice_loss(outputs[2][2:], pseudo[0])
    assert found["kd_cross_teaching"] == pytest.approx(0.5 * 0.25 * crossed, rel=1e-4)
    supervised = dice_loss(outputs[0][2:], mean[2:].argmax(1))
    assert found["kd_pseudo_supervision"] == pytest.approx(0.5 * 4 * supervised, rel=1e-4)


SETTINGS = {
    "importance": {"exponent": 4.0, "scale": "paper"},
    "region_affinity": {"form": "mean", "norm": 1},
    "attention": {"exponent": 4.0},
    "pairwise": {"positions": 16},
    "channel_wise": {"temperature": 1.0},
}


def test_every_setting_of_a_feature_term_has_an_effect(toy):
    batch, plain = random_batch(2), {term: {"weight": 1.0} for term in SETTINGS}
    usual = step(start(toy, "feature", {"features": plain}), batch)
    for i in range(2):
        settings = {term: dict([list(keys.items())[i % len(keys)]]) for term, keys in SETTINGS.items()}
        changed = step(start(toy, "feature", {"features": merged(plain, settings)}), batch)
        for term, setting in settings.items():
            assert abs(changed[f"kd_{term}"] - usual[f"kd_{term}"]) > 1e-3 * usual[f"kd_{term}"], (term, setting)


@pytest.mark.parametrize("training", ["ensemble", "several, stored", "feature"])
def test_mixup_mixes_what_the_teachers_say_as_it_mixes_the_images(toy, training):
    mixup = {"augmentation": {"mixup": {"probability": 1.0, "alpha": 1.0}}}
    kd = {"distillation": {**TERMS, "deep_supervision": False}, "unlabeled": {"fraction": 0.0}}
    trainer = start(toy, training, kd, mixup, NO_FEATURES)
    with torch.no_grad():
        trainer.network.decoder.seg_layers[-1].weight.mul_(10)  # as sure as a trained network
    batch, seen = random_batch(2), []
    trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    (t, inside), (other, _) = soft_labels(2), soft_labels(2, seed=3)
    inside[:] = True
    if training == "feature":
        found = step(trainer, batch)
    else:
        teachers = [(t, inside), (other, inside)] if "stored" in training else [(t, inside)]
        found = step(trainer, with_channels(batch, *teachers))
    images, swapped = batch["data"], batch["data"].flip(0)
    (mixed,) = seen
    share = float(((mixed - swapped) * (images - swapped)).sum() / (images - swapped).square().sum())
    assert 0.5 <= share < 0.99
    torch.testing.assert_close(mixed, share * images + (1 - share) * swapped, rtol=1e-3, atol=1e-4)
    if training == "feature":  # a teacher in memory sees the mixed image itself
        with torch.no_grad():
            taught = network_of(toy.results / TEACHER)(mixed).softmax(1)
    else:
        taught = (t + other) / 2 if "stored" in training else t
        taught = share * taught + (1 - share) * taught.flip(0)
    outputs = outputs_of(trainer, {"data": mixed})
    for name, value in soft_label_terms(outputs[0], taught, inside).items():
        assert found[f"kd_{name}"] == pytest.approx(TERMS[name]["weight"] * float(value), rel=2e-3), name
    hard = [trainer.loss(outputs, [x if how is None else x.flip(how) for x in batch["target"]]) for how in (None, 0)]
    assert (2 * share - 1) * abs(hard[0] - hard[1]) > 2e-3 * abs(hard[0]), "the two references are told apart"
    assert found["kd_hard"] == pytest.approx(float(share * hard[0] + (1 - share) * hard[1]), rel=5e-4)
