"""Paired statistics against scipy, hand-made values and brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from nnunet_kd.evaluation import statistics
from nnunet_kd.evaluation.statistics import (
    EXACT_UP_TO,
    SIGNIFICANCE_PRESETS,
    adjust,
    bootstrap_interval,
    compare_paired,
    wilcoxon_signed_rank,
)

NAN = float("nan")


def brute_force_p(differences) -> float:
    """Counts all patterns of signs, as the definition says."""
    d = np.array([x for x in differences if x != 0])
    ranks = stats.rankdata(np.abs(d))
    sums = np.array([ranks[np.array(s)].sum() for s in itertools.product([False, True], repeat=len(d))])
    w = ranks[d > 0].sum()
    return min(1.0, 2 * min((sums <= w).mean(), (sums >= w).mean()))


@pytest.mark.parametrize("n", [6, 17, 40])
def test_wilcoxon_is_scipys_exact_test_without_ties_and_zeros(n):
    d = np.random.default_rng(n).normal(0.4, 1, n)
    p, method = wilcoxon_signed_rank(d)
    assert method == "exact"
    assert p == pytest.approx(stats.wilcoxon(d, method="exact").pvalue, rel=1e-12)


def test_wilcoxon_is_exact_with_ties_and_drops_zeros():
    d = [1, 1, -1, 2, 2, 2, -3, 0, 0, 5, 5]
    p, method = wilcoxon_signed_rank(d)
    assert method == "exact"
    assert p == pytest.approx(brute_force_p(d), rel=1e-12)
    assert p == wilcoxon_signed_rank([x for x in d if x])[0]


def test_wilcoxon_by_hand():
    # ranks 1, 2, 3, negative: 1. Sums of at most 1: {} and {1} of 8 patterns; two-sided 2 * 2/8.
    assert wilcoxon_signed_rank([-1, 2, 3]) == (0.5, "exact")
    # all positive: one of 2^n patterns on each side
    assert wilcoxon_signed_rank([1, 2, 3, 4, 5])[0] == 2 / 2**5  # five cases cannot reach 0.05
    assert wilcoxon_signed_rank([1, 2, 3, 4, 5, 6])[0] == 2 / 2**6


def test_wilcoxon_above_the_exact_limit_is_scipys_normal_approximation(monkeypatch):
    d = np.round(np.random.default_rng(0).normal(0.2, 1, EXACT_UP_TO + 1), 1) + 0.01  # ties, no zeros
    p, method = wilcoxon_signed_rank(d)
    assert method == "normal approximation"
    assert p == pytest.approx(stats.wilcoxon(d, method="asymptotic").pvalue)
    monkeypatch.setattr(statistics, "EXACT_UP_TO", EXACT_UP_TO + 1)
    assert wilcoxon_signed_rank(d) == (pytest.approx(p, rel=0.1), "exact")


def test_wilcoxon_is_symmetric_and_independent_of_scale():
    d = np.array([3, -1, 2, 2, 7, -4, 0.5])
    assert wilcoxon_signed_rank(d) == wilcoxon_signed_rank(-d) == wilcoxon_signed_rank(1000 * d)


@pytest.mark.parametrize("d", [[0, 0, 0], [0.0, NAN]])
def test_only_zeros_are_no_evidence(d):
    assert wilcoxon_signed_rank(d) == (1.0, "exact")


@pytest.mark.parametrize("d", [[], [NAN, NAN]])
def test_wilcoxon_without_cases_is_undefined(d):
    p, method = wilcoxon_signed_rank(d)
    assert math.isnan(p)
    assert method == "undefined: no cases"


def test_infinite_values_are_refused():
    with pytest.raises(ValueError, match="infinite"):
        wilcoxon_signed_rank([1, np.inf])
    with pytest.raises(ValueError, match="infinite"):
        compare_paired([np.inf, 1], [np.inf, 2])


def test_holm_and_bonferroni_by_hand():
    # Holm: 3 * 0.01, 2 * 0.04 = 0.08, then 1 * 0.03 ordered: 0.01, 0.03, 0.04 -> 0.03, 0.06, max(0.06, 0.04)
    np.testing.assert_allclose(adjust([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(adjust([0.01, 0.04, 0.03], "bonferroni"), [0.03, 0.12, 0.09])
    np.testing.assert_allclose(adjust([0.6, 0.7]), [1, 1])


def test_adjusted_p_values_keep_shape_and_nan_which_counts_for_nothing():
    p = np.array([[0.01, NAN], [0.04, 0.03]])
    np.testing.assert_allclose(adjust(p), [[0.03, NAN], [0.06, 0.06]])
    assert np.isnan(adjust([NAN])).all()
    assert adjust([]).shape == (0,)
    with pytest.raises(ValueError, match="fdr"):
        adjust([0.1], "fdr")


def test_presets():
    p = [0.004, 0.006, 0.02, NAN]
    assert SIGNIFICANCE_PRESETS["noothout2022"].mark(p).tolist() == [True, False, False, False]
    assert SIGNIFICANCE_PRESETS["holm"].mark(p).tolist() == [True, True, True, False]
    assert SIGNIFICANCE_PRESETS["bonferroni"].mark(p).tolist() == [True, True, False, False]


def test_bootstrap_is_scipys_percentile_interval():
    d = np.random.default_rng(1).normal(0.5, 1, 30)
    theirs = stats.bootstrap((d,), np.mean, method="percentile", n_resamples=20_000).confidence_interval
    ours = bootstrap_interval(d, resamples=20_000)
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], atol=0.03)
    assert ours == bootstrap_interval(d, resamples=20_000)
    narrow = bootstrap_interval(d, confidence=0.5)
    assert ours[0] < narrow[0] < d.mean() < narrow[1] < ours[1]


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        low, high = bootstrap_interval(rng.normal(0.3, 1, 40), resamples=500)
        hits += low < 0.3 < high
    assert 0.89 <= hits / 100 <= 0.99


def test_bootstrap_of_groups_keeps_a_patients_cases_together():
    # Each of 10 patients has 20 equal cases: 200 cases say no more than 10 patients do.
    patients = np.random.default_rng(3).normal(0, 1, 10)
    groups = np.repeat([f"p{i}" for i in range(10)], 20)
    clustered = bootstrap_interval(np.repeat(patients, 20), groups)
    assert clustered == pytest.approx(bootstrap_interval(patients), abs=1e-12)
    independent = bootstrap_interval(np.repeat(patients, 20))
    assert np.diff(clustered) > 3 * np.diff(independent)


def test_bootstrap_by_hand_with_groups_of_different_size():
    # Two groups, drawn twice: (a, a), (a, b), (b, b) with means over cases 4, (4 + 1 + 1) / 3 = 2, 1.
    low, high = bootstrap_interval([4, 1, 1], ["a", "b", "b"], confidence=0.99)
    assert (low, high) == (1, 4)


@pytest.mark.parametrize(("d", "groups"), [([], None), ([1.0], None), ([1.0, NAN], None), ([1.0, 2.0], ["a", "a"])])
def test_one_group_has_no_interval(d, groups):
    assert np.isnan(bootstrap_interval(d, groups)).all()


def test_equal_differences_have_an_interval_of_no_width():
    assert bootstrap_interval([0.25] * 8) == (0.25, 0.25)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_impossible_confidence(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([1, 2], confidence=confidence)


def test_comparison_by_hand():
    c = compare_paired([3, 2, 1, NAN, 5], [1, 2, 2, 4, NAN])
    assert (c.n_cases, c.n_groups, c.left_out) == (3, 3, 2)
    assert c.mean == pytest.approx(1 / 3)
    assert (c.median, c.better, c.worse, c.ties) == (0, 1, 1, 1)
    assert (c.p, c.method) == (1.0, "exact")  # ranks 1 and 2, one of each sign: 2 * 2 / 4
    assert (c.low, c.high) == bootstrap_interval([2, 0, -1])


def test_distances_are_better_when_smaller():
    c = compare_paired([1, 1, 5], [2, 3, 4], higher_is_better=False)
    assert (c.better, c.worse) == (2, 1)
    assert c.mean < 0


def test_comparison_of_groups_tests_their_means():
    # Means of the patients: 1, 2, 3: p = 2 / 2^3, however many cases each has.
    c = compare_paired([0.5, 1.5, 2, 2, 2, 3], [0] * 6, groups=["a", "a", "b", "b", "b", "c"])
    assert (c.n_cases, c.n_groups, c.p) == (6, 3, 0.25)
    assert c.mean == pytest.approx(11 / 6)


def test_comparison_without_common_cases():
    c = compare_paired([NAN, 1], [1, NAN])
    assert (c.n_cases, c.left_out, c.better, c.worse, c.ties) == (0, 2, 0, 0, 0)
    assert all(math.isnan(v) for v in (c.mean, c.median, c.low, c.high, c.p))
    assert c.method == "undefined: no cases"


@pytest.mark.parametrize(("a", "b", "groups"), [([1, 2], [1], None), ([1, 2], [1, 2], ["p"])])
def test_lengths_must_agree(a, b, groups):
    with pytest.raises(ValueError, match=r"shapes|groups"):
        compare_paired(a, b, groups)
