"""What networks that are trained together teach each other: values, who receives a gradient, and Choi's Table 3."""

import numpy as np
import pytest
import torch

from nnunet_kd.config import CrossTeaching
from nnunet_kd.losses.cross_teaching import (
    FLOOR,
    PeerDistillationTerm,
    cross_teaching_loss,
    pseudo_dice_loss,
    pseudo_labels,
)
from nnunet_kd.losses.kl import kl_divergence
from nnunet_kd.losses.peer_term import mean_probabilities
from nnunet_kd.losses.peers import CrossTeachingLoss, UnlabeledTerms
from nnunet_kd.losses.ramps import ramp
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.schema import from_dict

SHAPES = [(4, 3, 6, 5), (4, 3, 4, 5, 3)]
TWO = ("T1", "T2")
NO_KD, NO_SSL = PeerDistillationTerm(weight=0.0), UnlabeledTerms(weight=0.0)
# Choi 2022, Table 3: teachers and students, SSL, KD, PSV, cross teaching
TABLE_3 = {
    "FSL": (CrossTeaching(unlabeled=NO_SSL), set()),
    "1T FSL KD": (CrossTeaching(teachers=TWO[:1], unlabeled=NO_SSL), {"distillation"}),
    "1T SSL KD": (
        CrossTeaching(teachers=TWO[:1], pseudo_supervision_weight=0.0),
        {"distillation", "distillation_unlabeled"},
    ),
    "1T SSL PSV": (CrossTeaching(teachers=TWO[:1], distillation=NO_KD), {"pseudo_supervision"}),
    "1T SSL KD PSV": (
        CrossTeaching(teachers=TWO[:1]),
        {"distillation", "distillation_unlabeled", "pseudo_supervision"},
    ),
    "2S CTS": (CrossTeaching(teachers=("S2",), between="students"), {"cross_teaching"}),
    "2T PSV CTT": (CrossTeaching(teachers=TWO, distillation=NO_KD), {"pseudo_supervision", "cross_teaching"}),
    "2T KD CTT": (
        CrossTeaching(teachers=TWO, pseudo_supervision_weight=0.0),
        {"distillation", "distillation_unlabeled", "cross_teaching"},
    ),
    "2T KD PSV CTT_SD": (
        CrossTeaching(teachers=("T1", "T1")),
        {"distillation", "distillation_unlabeled", "cross_teaching", "pseudo_supervision"},
    ),
    "2T KD PSV CTT": (
        CrossTeaching(teachers=TWO),
        {"distillation", "distillation_unlabeled", "cross_teaching", "pseudo_supervision"},
    ),
}
# term -> networks that learn from it; the others only teach
LEARNERS = {
    "distillation": {"student"},
    "distillation_unlabeled": {"student"},
    "pseudo_supervision": {"student"},
    "cross_teaching": {"other0", "other1"},
}


def logits(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)


def online_kl(z, t, temperature=1.0, **options):
    return kl_divergence(z, t, temperature=temperature, floor=FLOOR, **options)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def reference_dice(p, labels, smooth=1e-5):
    axes = (0, *range(2, p.ndim))
    one_hot = np.moveaxis(np.eye(p.shape[1])[labels], -1, 1)
    dice = (2 * (p * one_hot).sum(axes) + smooth) / (p.sum(axes) + one_hot.sum(axes) + smooth)
    return 1 - dice[1:].mean()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_loss_against_numpy(shape):
    student, t1, t2 = (logits(shape, i) for i in range(3))
    progress, labeled = 0.7, 2
    values = CrossTeachingLoss(CrossTeaching(teachers=TWO), False)(student, (t1, t2), labeled, progress)
    s, a, b = (softmax(z.detach().numpy()) for z in (student, t1, t2))
    mean = (a + b) / 2
    kl = (mean * np.log(mean / s)).sum(1)
    dis, ssl = 10 * np.exp(-5 * 0.3**2), 0.1 * np.exp(-5 * 0.3**2)
    expected = {
        "distillation": dis * kl[:labeled].mean(),
        "distillation_unlabeled": ssl * dis * kl[labeled:].mean(),
        "cross_teaching": ssl
        * (reference_dice(a[labeled:], b[labeled:].argmax(1)) + reference_dice(b[labeled:], a[labeled:].argmax(1))),
        "pseudo_supervision": ssl * reference_dice(s[labeled:], mean[labeled:].argmax(1)),
    }
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("row", TABLE_3)
def test_every_row_of_table_3_is_a_setting(row):
    config, terms = TABLE_3[row]
    config.check("kd.cross_teaching")
    loss = CrossTeachingLoss(config, False)
    assert set(loss.curves()) == terms
    others = [logits(SHAPES[0], i + 1) for i in range(len(config.teachers))]
    assert set(loss(logits(SHAPES[0], 0), others, 2, 1.0)) == terms


@pytest.mark.parametrize("row", TABLE_3)
def test_only_learners_receive_a_gradient_and_only_from_their_cases(row):
    config, terms = TABLE_3[row]
    for name in terms:
        networks = {"student": logits(SHAPES[1], 0)}
        networks |= {f"other{i}": logits(SHAPES[1], i + 1) for i in range(len(config.teachers))}
        values = CrossTeachingLoss(config, False)(networks["student"], list(networks.values())[1:], 2, 1.0)
        values[name].backward()
        learners = {"student", "other0"} if config.between == "students" else LEARNERS[name]
        for network, z in networks.items():
            if network not in learners:
                assert z.grad is None or not z.grad.any(), f"{network} only teaches in {name}"
                continue
            of_labeled, of_unlabeled = bool(z.grad[:2].any()), bool(z.grad[2:].any())
            assert (of_labeled, of_unlabeled) == ((True, False) if name == "distillation" else (False, True))


def test_equal_networks_have_nothing_to_teach_but_their_uncertainty():
    z = logits(SHAPES[0], 0)
    values = CrossTeachingLoss(CrossTeaching(teachers=TWO), False)(z, (z, z), 2, 1.0)
    assert values["distillation"].item() == pytest.approx(0, abs=1e-12)
    sure = 200 * z.detach()
    values = CrossTeachingLoss(CrossTeaching(teachers=TWO), False)(sure, (sure, sure), 2, 1.0)
    assert values["cross_teaching"].item() == pytest.approx(0, abs=1e-3)
    assert values["pseudo_supervision"].item() == pytest.approx(0, abs=1e-3)


def test_ramps_are_those_of_the_paper():
    config = CrossTeaching(teachers=TWO)
    student, t1, t2 = (logits(SHAPES[0], i).detach() for i in range(3))
    end = CrossTeachingLoss(config, False)(student, (t1, t2), 2, 1.0)
    for progress in (0.0, 0.5):
        now = CrossTeachingLoss(config, False)(student, (t1, t2), 2, progress)
        factor = ramp("gaussian", progress)
        powers = {"distillation": 1, "distillation_unlabeled": 2, "cross_teaching": 1, "pseudo_supervision": 1}
        for name, power in powers.items():
            assert now[name].item() == pytest.approx(end[name].item() * factor**power, rel=1e-9)


def test_directions_and_temperature():
    z, t = logits(SHAPES[0], 0), logits(SHAPES[0], 1).softmax(1)
    p, q = z.softmax(1), t
    forward = (q * (q.log() - p.log())).sum(1).mean()
    backward = (p * (p.log() - q.log())).sum(1).mean()
    assert online_kl(z, t).item() == pytest.approx(forward.item(), rel=1e-6)
    assert online_kl(z, t, direction="student_teacher").item() == pytest.approx(backward.item(), rel=1e-6)
    p, q = (z / 3).softmax(1), (t.log() / 3).softmax(1)
    expected = 9 * (q * (q.log() - p.log())).sum(1).mean()
    assert online_kl(z, t, temperature=3.0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_regions():
    z, t = logits(SHAPES[0], 0), logits(SHAPES[0], 1)
    labels = pseudo_labels(t.sigmoid(), sigmoid=True)
    assert torch.equal(labels, t > 0)
    p, q = z.sigmoid(), t.sigmoid()
    expected = (q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()).sum(1).mean()
    assert online_kl(z, q, sigmoid=True).item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(mean_probabilities([z, t], sigmoid=True), (p + q) / 2)
    assert pseudo_dice_loss(200 * t, labels, sigmoid=True).item() == pytest.approx(0, abs=1e-2)
    assert cross_teaching_loss(z, t, sigmoid=True).item() > 0
    values = CrossTeachingLoss(CrossTeaching(teachers=TWO), True)(z, (t, z), 2, 0.5)
    assert all(torch.isfinite(v) for v in values.values())


def test_pseudo_labels_are_one_hot():
    p = logits((2, 4, 3, 3), 0).softmax(1)
    labels = pseudo_labels(p)
    assert (labels.sum(1) == 1).all()
    assert torch.equal(labels.int().argmax(1), p.argmax(1))


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ({"teachers": ["A", "B", "C"]}, "expected at most 2"),
        ({"teachers": ["A", "B"], "between": "students"}, "expected at most 1"),
        ({"between": "students"}, "two students need"),
        ({"teachers": ["../A"]}, "expected a plans name"),
    ],
)
def test_impossible_settings_are_refused(block, sentence):
    with pytest.raises(UserError, match=sentence):
        from_dict(CrossTeaching, block, "kd.cross_teaching")
