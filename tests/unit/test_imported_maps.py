"""Probability maps from elsewhere and choices noted in the plans: refused with one sentence, or whole."""

import json
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_kd.softlabels.choices import record_choice
from nnunet_kd.teachers.maps import read_map
from nnunet_kd.utilities.errors import UserError

GOOD = np.moveaxis(np.random.default_rng(0).dirichlet(np.ones(3), (4, 5, 6)), -1, 0).astype(np.float32)


def read(folder: Path) -> np.ndarray:
    return read_map(folder, "case", LabelManager({"background": 0, "one": 1, "two": 2}, None))


def test_a_map_as_nnunet_writes_it_is_read(tmp_path):
    np.savez_compressed(tmp_path / "case.npz", probabilities=GOOD)
    np.testing.assert_array_equal(read(tmp_path), GOOD)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "not a probability map"),
        ({"probabilities": GOOD[:2]}, "expected \\(3, z, y, x\\)"),
        ({"probabilities": GOOD * np.float32(0.5)}, "do not sum to 1"),
        ({"probabilities": np.full_like(GOOD, np.nan)}, "outside \\[0, 1\\]"),
        ({"probabilities": np.stack([GOOD[0] * 0 + 2, GOOD[0] * 0 - 1, GOOD[0] * 0])}, "outside \\[0, 1\\]"),
        ({"probabilities": np.array([{"code": 1}], dtype=object)}, "not a probability map"),
        ({"probabilities": GOOD.astype(str)}, "expected floating-point numbers"),
        ({"probabilities": GOOD.astype(complex)}, "expected floating-point numbers"),
        ({"probabilities": GOOD[:, :0]}, "expected \\(3, z, y, x\\)"),
    ],
)
def test_other_maps_are_refused(tmp_path, content, sentence):
    np.savez(tmp_path / "case.npz", **content)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path)


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(UserError, match=r"case\.npz: no such file"):
        read(tmp_path)


def test_choices_are_noted_in_kd_plans_only(tmp_path):
    plans, maps = tmp_path / "Student.json", tmp_path / "maps"
    maps.mkdir()
    plans.write_text(json.dumps({"kd": {"schedule": {"seed": 1}}, "plans_name": "Student"}))
    with pytest.raises(UserError, match=r"no \.npz files"):
        record_choice(plans, str(maps), None)
    np.savez(maps / "case.npz", probabilities=GOOD)
    record_choice(plans, str(maps), "logits")
    written = json.loads(plans.read_text())
    assert written["kd"]["ensemble"] == {"from_folder": str(maps.resolve()), "combine": "logits"}
    assert written["kd"]["schedule"] == {"seed": 1}
    plans.write_text(json.dumps({"plans_name": "nnUNetPlans"}))
    with pytest.raises(UserError, match="nnUNetv2_kd plan"):
        record_choice(plans, None, "logits")
    assert json.loads(plans.read_text()) == {"plans_name": "nnUNetPlans"}
