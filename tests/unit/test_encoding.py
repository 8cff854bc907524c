"""Probabilities on disk: exact sums, bounded error, kept order."""

import numpy as np
import pytest

from nnunet_kd.softlabels.encoding import ONE, decode, encode


def random_softmax(classes, shape=(6, 7, 5), sharpness=3.0, seed=0):
    logits = np.random.default_rng(seed).normal(size=(classes, *shape)) * sharpness
    p = np.exp(logits - logits.max(0))
    return (p / p.sum(0)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 14])
@pytest.mark.parametrize("sharpness", [0.0, 0.3, 3.0, 30.0])
def test_all_classes_sum_to_exactly_255_and_no_value_is_off_by_one_step(classes, sharpness):
    p = random_softmax(classes, sharpness=sharpness)
    stored = encode(p, regions=False, dtype="uint8")
    assert stored.shape == (classes - 1, *p.shape[1:])
    assert stored.dtype == np.uint8
    foreground = stored.sum(0, dtype=int)
    assert foreground.max() <= ONE
    full = np.concatenate((ONE - foreground[None], stored.astype(int)))
    assert (full >= 0).all()
    assert np.abs(full - p.astype(np.float64) * ONE).max() < 1 + 1e-3


@pytest.mark.parametrize("classes", [2, 3, 14])
def test_the_order_of_classes_is_kept(classes):
    p = random_softmax(classes, sharpness=1.0)
    decoded = decode(encode(p, regions=False, dtype="uint8"), regions=False)
    best = p.argmax(0)
    assert (np.take_along_axis(decoded, best[None], 0)[0] >= decoded.max(0) - 1e-6).all()


def test_decoding_is_the_inverse_up_to_the_rounding():
    p = random_softmax(4)
    for dtype, tolerance in (("uint8", 1 / ONE + 1e-5), ("float16", 2e-3)):
        decoded = decode(encode(p, regions=False, dtype=dtype), regions=False)
        np.testing.assert_allclose(decoded, p, atol=tolerance)
        np.testing.assert_allclose(decoded.sum(0), 1, atol=1e-3)


def test_one_hot_labels_survive_exactly():
    one_hot = np.eye(3, dtype=np.float32)[np.random.default_rng(1).integers(0, 3, (4, 5, 6))].transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(decode(encode(one_hot, regions=False, dtype="uint8"), regions=False), one_hot)


def test_probabilities_that_do_not_quite_sum_to_one_are_still_encoded_to_255():
    p = random_softmax(3) * np.float32(0.98)
    stored = encode(p, regions=False, dtype="uint8").astype(int)
    assert (stored.sum(0) <= ONE).all()


def test_regions_are_independent():
    p = np.random.default_rng(2).random((3, 4, 4, 4)).astype(np.float32)
    stored = encode(p, regions=True, dtype="uint8")
    assert stored.shape == p.shape
    np.testing.assert_allclose(decode(stored, regions=True), p, atol=0.5 / ONE + 1e-6)
