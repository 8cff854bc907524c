"""Weights that rise or fall over the training."""

import itertools
import math

import pytest

from nnunet_kd.losses import ramp

RISING = ("linear", "gaussian")


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_none_is_always_one(progress):
    assert ramp("none", progress, 0.5) == 1


@pytest.mark.parametrize(
    ("kind", "progress", "length", "expected"),
    [
        ("linear", 0.0, 1.0, 0.0),
        ("linear", 0.25, 1.0, 0.25),
        ("linear", 0.25, 0.5, 0.5),
        ("gaussian", 0.0, 1.0, math.exp(-5)),
        ("gaussian", 0.5, 1.0, math.exp(-1.25)),
        ("gaussian", 0.2, 0.4, math.exp(-1.25)),
        ("fade", 0.0, 1.0, 1.0),
        ("fade", 0.25, 1.0, 0.75),
        ("fade", 0.25, 0.5, 0.5),
        ("fade", 0.75, 0.5, 0.0),
    ],
)
def test_values_by_hand(kind, progress, length, expected):
    assert ramp(kind, progress, length) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", RISING)
@pytest.mark.parametrize("length", [0.1, 0.5, 1.0])
def test_rises_monotonically_within_0_and_1_and_stays_1_after_its_length(kind, length):
    values = [ramp(kind, i / 100, length) for i in range(101)]
    assert all(0 <= a <= b <= 1 for a, b in itertools.pairwise(values))
    assert all(v == 1 for i, v in enumerate(values) if i / 100 >= length)
    assert values[0] < 0.01


@pytest.mark.parametrize("length", [0.1, 0.5, 1.0])
def test_fade_falls_from_1_to_0_and_stays_0(length):
    values = [ramp("fade", i / 100, length) for i in range(101)]
    assert values[0] == 1
    assert all(0 <= b <= a for a, b in itertools.pairwise(values))
    assert all(v == 0 for i, v in enumerate(values) if i / 100 >= length)


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="cosine"):
        ramp("cosine", 0.5, 1.0)
