"""A training that is silently wrong fails here: the size of steps, learning rates, ramps, weights of the terms.

``benchmarks/mutants.yaml`` lists the mistakes that these tests were written against.
"""

import copy
import itertools

import pytest
import torch

from tests.unit.small_trainings import (
    EPOCHS,
    TRAININGS,
    distances,
    merged,
    start,
    step,
    weights_of,
    world,
)
from tests.unit.toy_dataset import run_epoch

STUDENTS = [name for name in TRAININGS if name != "twin"]


@pytest.fixture(scope="module", name="toy")
def _toy(tmp_path_factory):
    with world(tmp_path_factory.mktemp("world")) as toy:
        yield toy


def optimizer(**settings):
    return {"optimizer": settings}


@pytest.mark.parametrize("training", TRAININGS)
def test_gradients_are_clipped_to_norm_12_for_each_network(toy, tmp_path, training):
    steep = {"hard_loss": {"dice_weight": 1e6, "other_weight": 1e6}, "features": {"hint": {"weight": 1e6}}}
    if "stored" in training:
        del steep["features"]
    trainer = start(toy, training, optimizer(initial_lr=1.0, lr_schedule="constant"), steep)
    before = weights_of(trainer, tmp_path)
    trainer.train_step(next(trainer.dataloader_train))
    way = distances(before, weights_of(trainer, tmp_path))
    assert way == pytest.approx(dict.fromkeys(before, 12.0), rel=1e-3)
    extra = {"feature": {"heads"}, "several": {"heads"}, "cross teaching": {"peer 0", "peer 1"}}
    assert way.keys() == {"student"} | extra.get(training, set())


@pytest.mark.parametrize("training", TRAININGS)
def test_a_step_follows_its_own_batch_and_not_those_before(toy, tmp_path, training):
    flat = {"hard_loss": {"weight": 0.1}, "distillation": {t: {"weight": 0.1} for t in ("soft_ce", "soft_dice")}}
    trainer = start(toy, training, optimizer(initial_lr=1e-4, lr_schedule="constant"), flat)
    batch = next(trainer.dataloader_train)
    weights = [weights_of(trainer, tmp_path)]
    for _ in range(3):
        trainer.train_step(copy.deepcopy(batch))
        weights.append(weights_of(trainer, tmp_path))
    first, _, third = (distances(a, b) for a, b in itertools.pairwise(weights))
    assert third == pytest.approx(first, rel=0.1)
    assert min(first.values()) > 0


@pytest.mark.parametrize(
    ("training", "schedule"), [*((t, "poly") for t in TRAININGS), ("twin", "cosine"), ("cross teaching", "constant")]
)
def test_the_learning_rate_of_every_network_falls_as_the_schedule_says(toy, tmp_path, training, schedule):
    expected = {
        "poly": [1e-3 * (1 - e / EPOCHS) ** 0.9 for e in range(EPOCHS)],
        "cosine": [1e-3 * (1 + torch.cos(torch.tensor(torch.pi * e / EPOCHS)).item()) / 2 for e in range(EPOCHS)],
        "constant": [1e-3] * EPOCHS,
    }[schedule]
    trainer = start(toy, training, optimizer(initial_lr=1e-3, lr_schedule=schedule))
    file = tmp_path / "c.pth"
    for epoch in (0, 2):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.save_checkpoint(str(file))
        saved = torch.load(file, weights_only=False)
        peers = saved.get("kd_cross_teaching", {}).get("peers", ())
        states = [saved["optimizer_state"], *(p["optimizer"] for p in peers)]
        states += [saved["kd_heads"]["optimizer"]] if "kd_heads" in saved else []
        assert len(states) == {"cross teaching": 3, "feature": 2}.get(training, 1)
        for state in states:
            assert state["param_groups"][0]["lr"] == pytest.approx(expected[epoch])


def test_optimizers_are_those_of_the_plans(toy):
    for name, cls in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        trainer = start(toy, "twin", optimizer(name=name, initial_lr=0.5, weight_decay=0.25, momentum=0.75))
        assert type(trainer.optimizer) is cls
        (group,) = trainer.optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
        assert name != "sgd" or (group["momentum"], group["nesterov"]) == (0.75, True)


def ramps(kind, length=1.0):
    """Every term that a trainer may have, with one ramp."""
    ramp = {"ramp": kind, "ramp_length": length}
    prediction = {t: {"weight": 0.5, **ramp} for t in ("kl", "mse", "soft_ce", "soft_dice")}
    features = {t: {"weight": 0.5, **ramp} for t in ("importance", "region_affinity", "hint")}
    return {
        "distillation": prediction,
        "features": features,
        "cross_teaching": {"distillation": ramp, "unlabeled": ramp},
    }


PREDICTION = dict.fromkeys(("kl", "mse", "soft_ce", "soft_dice"), 1)
FEATURES = dict.fromkeys(("importance", "region_affinity", "hint"), 1)
RAMPED = {
    "ensemble": PREDICTION,
    "feature": PREDICTION | FEATURES,
    "several": PREDICTION | FEATURES,
    "several, stored": PREDICTION,
    # what is distilled on unlabeled cases has both ramps
    "cross teaching": {"distillation": 1, "distillation_unlabeled": 2, "cross_teaching": 1, "pseudo_supervision": 1},
}


def with_ramps(training, *arguments):
    blocks = ramps(*arguments)
    if "stored" in training:
        del blocks["features"]
    if training != "cross teaching":
        del blocks["cross_teaching"]
    return blocks


@pytest.mark.parametrize("training", RAMPED)
def test_ramped_terms_rise_with_the_epochs_and_the_hard_loss_does_not(toy, training):
    constant = start(toy, training, with_ramps(training, "none"))
    batch = next(constant.dataloader_train)
    whole = step(constant, batch)
    for length in (1.0, 0.5):
        rising = start(toy, training, with_ramps(training, "linear", length))
        for epoch in (1, 3):
            found = step(rising, batch, epoch)
            factor = min(1.0, epoch / EPOCHS / length)
            for name, power in RAMPED[training].items():
                assert whole[f"kd_{name}"] > 0
                assert found[f"kd_{name}"] == pytest.approx(factor**power * whole[f"kd_{name}"], rel=1e-4), name
            assert found["kd_hard"] == pytest.approx(whole["kd_hard"], rel=1e-5)


@pytest.mark.parametrize("training", RAMPED)
def test_the_logged_curves_begin_at_0_and_rise(toy, training):
    trainer = start(toy, training, with_ramps(training, "linear"))
    for _ in range(2):
        run_epoch(trainer)
    log = trainer.logger.local_logger.my_fantastic_logging
    for name in RAMPED[training]:
        first, second = log[f"kd_{name}"]
        assert first == 0 < second, name
    assert min(log["kd_hard"]) > 0


@pytest.mark.parametrize("training", STUDENTS)
def test_the_hard_loss_has_its_weight_and_the_loss_is_the_sum_of_its_terms(toy, training):
    light, heavy = (start(toy, training, {"hard_loss": {"weight": w}}) for w in (0.25, 2.0))
    batch = next(light.dataloader_train)
    results = [step(t, batch) for t in (light, heavy)]
    hard = [k for k in results[0] if k.startswith("kd_hard")]
    assert len(hard) == (3 if training == "cross teaching" else 1)
    for name in hard:
        assert results[0][name] * 8 == pytest.approx(results[1][name], rel=1e-5)
    for found in results:
        terms = sum(v for k, v in found.items() if k.startswith("kd_") and isinstance(v, float))
        assert found["loss"] == pytest.approx(terms, rel=1e-5)


@pytest.mark.parametrize("training", [t for t in STUDENTS if t != "cross teaching"])
def test_normalized_weights_sum_to_those_of_the_twin(toy, training):
    terms = {"kl": {"weight": 3.0}, "soft_ce": {"ramp": "linear"}, "soft_dice": {"ramp": "none"}}
    kd = {"hard_loss": {"weight": 0.5}, "distillation": terms}
    as_it_is = start(toy, training, kd)
    scaled = start(toy, training, merged(kd, {"distillation": {"normalized": True}}))
    batch = next(as_it_is.dataloader_train)
    before, after = (step(t, batch, 1) for t in (as_it_is, scaled))
    factor = 2 / (0.5 * 2 + 3 + 1 / EPOCHS + 1)  # Dice and cross-entropy; and hard loss, kl, soft_ce, soft_dice
    for name in ("hard", "kl", "soft_ce", "soft_dice"):
        assert after[f"kd_{name}"] == pytest.approx(factor * before[f"kd_{name}"], rel=1e-4), name
    for name in {"kd_importance", "kd_region_affinity", "kd_hint"} & before.keys():
        assert after[name] == pytest.approx(before[name], rel=1e-4), name


@pytest.mark.parametrize("name", ["dice_ce", "dice_lovasz", "dice_focal", "dice", "ce"])
def test_the_parts_of_the_hard_loss_have_their_weights(toy, name):
    batch = None

    def loss(dice, other):
        nonlocal batch
        trainer = start(toy, "twin", {"hard_loss": {"name": name, "dice_weight": dice, "other_weight": other}})
        batch = batch or next(trainer.dataloader_train)
        return step(trainer, batch)["loss"]

    both = loss(1.0, 1.0)
    more_dice, more_of_the_other = loss(3.0, 1.0) - both, loss(1.0, 3.0) - both
    assert both == pytest.approx((more_dice + more_of_the_other) / 2, rel=1e-4)
    assert [abs(x) > 0.1 for x in (more_dice, more_of_the_other)] == [name != "ce", name != "dice"]


def test_both_networks_of_cross_teaching_train_in_training_mode_and_are_validated_in_evaluation_mode(toy):
    trainer = start(
        toy,
        "cross teaching",
        dropout_op="torch.nn.modules.dropout.Dropout3d",
        dropout_op_kwargs={"p": 0.5, "inplace": False},
    )
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        batch = next(trainer.dataloader_val)
        first, second = (trainer.validation_step(copy.deepcopy(batch)) for _ in range(2))
        trainer.on_validation_epoch_end([first, second])
    assert all((first[k] == second[k]).all() for k in first)
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    first, second = (step(trainer, batch) for _ in range(2))
    for name in ("kd_hard", "kd_hard_teacher1", "kd_hard_teacher2"):
        assert first[name] != second[name], "dropout is off while the network trains"


@pytest.mark.parametrize("training", STUDENTS)
def test_the_seed_decides_about_weights_and_batches(toy, tmp_path, training):
    drawn = []
    for seed in (4, 4, 5):
        trainer = start(toy, training, {"schedule": {"seed": seed}})
        weights = [w for network in weights_of(trainer, tmp_path).values() for w in network.values()]
        drawn.append([*weights, next(trainer.dataloader_train)["data"]])
    assert all(torch.equal(a, b) for a, b in zip(*drawn[:2], strict=True))
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert not torch.equal(drawn[0][-1], drawn[2][-1])


@pytest.mark.parametrize(
    ("training", "precision", "dtype"),
    [
        *((t, "bf16", torch.bfloat16) for t in TRAININGS),
        ("twin", "fp32", torch.float32),
        ("twin", "default", torch.float32),
    ],
)
def test_networks_run_in_the_precision_of_the_plans(toy, training, precision, dtype):
    trainer, seen = start(toy, training, {"schedule": {"precision": precision}}), []
    trainer.network.decoder.seg_layers[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    trainer.train_step(next(trainer.dataloader_train))
    assert [o.dtype for o in seen] == [dtype], "on the CPU the default is float32"
