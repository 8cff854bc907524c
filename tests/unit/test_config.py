"""The "kd" block: strict, with messages that name the key, what was found and what is allowed."""

import dataclasses
import json

import pytest

from nnunet_kd.config import KDConfig, Teacher
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.schema import apply_settings, from_dict, iterate_keys, to_dict


def block(text):
    return KDConfig.from_plans({"kd": json.loads(text)})


def test_plans_without_a_block_give_the_defaults():
    assert KDConfig.from_plans({"plans_name": "nnUNetPlans"}) == KDConfig()


def test_defaults_are_nnunets():
    config = KDConfig()
    assert (config.schedule.num_epochs, config.schedule.iterations_per_epoch) == (1000, 250)
    assert (config.optimizer.name, config.optimizer.initial_lr, config.optimizer.momentum) == ("sgd", 1e-2, 0.99)


def test_round_trip_through_json():
    config = block('{"teachers": [{"folder": "A__B__C", "folds": [0, "all"]}], "schedule": {"seed": 7}}')
    assert config.teachers == (Teacher("A__B__C", (0, "all")),)
    assert KDConfig.from_plans(json.loads(json.dumps({"kd": to_dict(config)}))) == config


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"scedule": {}}', ["kd.scedule", "unknown key", "schedule"]),
        ('{"schedule": {"epochs": 3}}', ["kd.schedule.epochs", "unknown key", "num_epochs"]),
        ('{"schedule": {"num_epochs": "many"}}', ["kd.schedule.num_epochs", "'many'", "integer"]),
        ('{"schedule": {"num_epochs": 1.5}}', ["kd.schedule.num_epochs", "1.5", "integer"]),
        ('{"schedule": {"num_epochs": true}}', ["kd.schedule.num_epochs", "True", "integer"]),
        ('{"schedule": {"num_epochs": 0}}', ["kd.schedule.num_epochs", "0", ">= 1"]),
        ('{"schedule": {"seed": -1}}', ["kd.schedule.seed", "-1", ">= 0"]),
        ('{"schedule": 5}', ["kd.schedule", "5", "object"]),
        ('{"optimizer": {"name": "lion"}}', ["kd.optimizer.name", "'lion'", "adamw"]),
        ('{"optimizer": {"initial_lr": 0}}', ["kd.optimizer.initial_lr", "> 0"]),
        ('{"optimizer": {"initial_lr": NaN}}', ["kd.optimizer.initial_lr", "nan", "> 0"]),
        ('{"distillation": {"kl": {"temperature": -2}}}', ["kd.distillation.kl.temperature", "-2", "> 0"]),
        ('{"distillation": {"kl": {"weight": Infinity}}}', ["kd.distillation.kl.weight", "inf"]),
        ('{"distillation": {"mse": {"ramp": "cosine"}}}', ["kd.distillation.mse.ramp", "gaussian"]),
        ('{"distillation": {"mse": {"temperature": 2}}}', ["kd.distillation.mse.temperature", "unknown key"]),
        ('{"teachers": "A__B__C"}', ["kd.teachers", "list"]),
        ('{"teachers": [{}]}', ["kd.teachers[0].folder", "missing"]),
        ('{"teachers": [{"folder": "A__B__C", "folds": [0.5]}]}', ["kd.teachers[0].folds[0]", "0.5"]),
        ('{"teachers": [{"folder": "A__B__C", "checkpoint": "../../x.pth"}]}', ["checkpoint", "file name"]),
        ('{"ensemble": {"name": "../up"}}', ["kd.ensemble.name", "letters"]),
        ('{"ensemble": {"step_size": 1e-9}}', ["kd.ensemble.step_size", ">= 0.01"]),
        ('{"ensemble": {"step_size": 1.5}}', ["kd.ensemble.step_size", "<= 1"]),
        ('{"ensemble": {"mirroring": 1}}', ["kd.ensemble.mirroring", "true | false"]),
        ('{"features": {"pairs": [{"student": "encoder.0"}]}}', ["kd.features.pairs[0].teacher", "missing"]),
        ('{"features": {"number_of_pairs": 5}}', ["kd.features.number_of_pairs", "5", "<= 4"]),
        ('{"features": {"importance": {"exponent": 0}}}', ["kd.features.importance.exponent", "> 0"]),
        ('{"features": {"region_affinity": {"norm": 3}}}', ["kd.features.region_affinity.norm", "<= 2"]),
        ('{"features": {"similarity": {"positions": 3}}}', ["kd.features.similarity.positions", "unknown key"]),
        ('{"augmentation": {"transforms": "strong"}}', ["kd.augmentation.transforms", "DA5"]),
        ('{"augmentation": {"mixup": {"alpha": 0}}}', ["kd.augmentation.mixup.alpha", "> 0"]),
        (
            '{"augmentation": {"mixup": {"probability": 0.7}, "cutmix": {"probability": 0.4}}}',
            ["kd.augmentation.mixup.probability", "sum to 1.1", "at most 1"],
        ),
        ('{"augmentation": {"rotation": 200}}', ["kd.augmentation.rotation", "<= 180"]),
        (
            '{"augmentation": {"mirroring": false}, "student": {"mirroring": true}}',
            ["kd.student.mirroring", "no mirrored patches"],
        ),
        ('{"hard_loss": {"name": "lovasz"}}', ["kd.hard_loss.name", "dice_lovasz"]),
        ('{"multi_teacher": {"weights": "best"}}', ["kd.multi_teacher.weights", "inverse"]),
        ('{"multi_teacher": {"weights": "fixed"}}', ["kd.multi_teacher.fixed_weights", "[]"]),
        ('{"multi_teacher": {"fixed_weights": [1]}}', ["kd.multi_teacher.fixed_weights", "fixed only"]),
        ('{"multi_teacher": {"weights": "fixed", "fixed_weights": [0, 0]}}', ["fixed_weights", "not all 0"]),
        (
            '{"multi_teacher": {"source": "stored"}}',
            ["kd.multi_teacher.source", "features.importance.weight and features.region_affinity.weight to 0"],
        ),
    ],
)
def test_a_bad_value_is_refused_with_path_finding_and_remedy(text, parts):
    with pytest.raises(UserError) as error:
        block(text)
    for part in parts:
        assert part in str(error.value)


def test_integers_are_accepted_where_numbers_are_expected():
    assert block('{"optimizer": {"initial_lr": 1}}').optimizer.initial_lr == 1.0


def test_settings_change_only_what_they_name():
    changed = apply_settings(
        {"schedule": {"seed": 1}}, ["schedule.num_epochs=5", "optimizer.name=adam", "kd.recipe=null"]
    )
    assert changed == {"schedule": {"seed": 1, "num_epochs": 5}, "optimizer": {"name": "adam"}, "recipe": None}


def test_a_setting_nested_beyond_what_json_reads_is_text():
    deep = "[" * 5000
    assert apply_settings({}, [f"schedule.num_epochs={deep}"]) == {"schedule": {"num_epochs": deep}}


@pytest.mark.parametrize("setting", ["schedule.num_epochs", "schedule.seed.deeper=1"])
def test_a_malformed_setting_is_refused(setting):
    with pytest.raises(UserError, match="--set"):
        apply_settings({"schedule": {"seed": 1}}, [setting])


def test_every_key_is_documented_and_reachable():
    rows = list(iterate_keys(KDConfig, "kd"))
    assert len({r[0] for r in rows}) == len(rows) > 40
    for path, kind, _, meaning in rows:
        assert kind
        assert len(meaning) > 5, path


def test_blocks_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_dict(KDConfig, {}, "kd").recipe = "x"
