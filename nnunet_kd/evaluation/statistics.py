"""Paired comparisons on the same cases: Wilcoxon's test, corrections for many tests, bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata, wilcoxon

EXACT_UP_TO = 100
NORMAL, EXACT = "normal approximation", "exact"


def wilcoxon_signed_rank(differences: ArrayLike) -> tuple[float, str]:
    """Two-sided p-value of Wilcoxon's signed-rank test, exact also with ties.

    Zeros are dropped, as Wilcoxon did. The absolute differences are ranked, tied ones get their mean rank, and
    ``W`` is the sum of the ranks of the positive ones. Under the null hypothesis each of the ``2^n`` patterns of signs
    is as likely as any other:

        p = min(1, 2 min(P(W' <= W), P(W' >= W)))

    Up to 100 non-zero differences this distribution is computed; above, its normal approximation with the variance
    that ties leave, and without correction for continuity.
    Source: Wilcoxon 1945; the paired test of Noothout et al. 2022, section 2.3.

    Args:
        differences: one for each independent pair, any unit; NaN is left out.

    Returns:
        p, and how it was found: ``exact`` or ``normal approximation``. With nothing but zeros p is 1 (there is one
        pattern of signs); without any difference p is NaN, and the text says so.

    Raises:
        ValueError: for infinite differences.
    """
    d = _finite(differences)
    if d.size == 0:
        return float("nan"), "undefined: no cases"
    d = d[d != 0]
    if d.size > EXACT_UP_TO:
        return float(wilcoxon(d, zero_method="wilcox", correction=False, method="asymptotic").pvalue), NORMAL
    doubled_ranks = np.rint(2 * rankdata(np.abs(d))).astype(int)  # whole numbers: mean ranks are multiples of 1/2
    probability = _rank_sum_distribution(doubled_ranks)
    w = int(doubled_ranks[d > 0].sum())
    return float(min(1.0, 2 * min(probability[: w + 1].sum(), probability[w:].sum()))), EXACT


def _rank_sum_distribution(ranks: np.ndarray) -> np.ndarray:
    """Probability of each sum of the ranks with a positive sign, from 0 to the sum of all, signs being fair coins."""
    probability = np.zeros(int(ranks.sum()) + 1)
    probability[0] = 1.0
    for rank in ranks:
        positive = np.zeros_like(probability)
        positive[rank:] = probability[: probability.size - rank]
        probability = (probability + positive) / 2
    return probability


def adjust(p_values: ArrayLike, method: str = "holm") -> np.ndarray:
    """p-values corrected for the number of tests; compare them with the same level as a single test's.

    With ``m`` tests, ordered ``p_(1) <= ... <= p_(m)``:

        bonferroni: min(1, m p_(i))        holm: max_{j <= i} min(1, (m - j + 1) p_(j))

    Source: Holm 1979. Both bound the probability of one or more false positives, whatever the tests' dependence;
    Holm's values are never larger.

    Args:
        p_values: any shape; NaN stays NaN and does not count as a test.
        method: ``holm`` or ``bonferroni``.

    Raises:
        ValueError: for another method.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = p.copy()
    valid = ~np.isnan(p)
    m = int(valid.sum())
    if method == "bonferroni":
        adjusted[valid] = np.minimum(1, m * p[valid])
    elif method == "holm":
        order = np.argsort(p[valid], kind="stable")
        steps = np.maximum.accumulate(np.minimum(1, p[valid][order] * (m - np.arange(m))))
        adjusted[valid] = steps[np.argsort(order, kind="stable")]
    else:
        raise ValueError(f"method {method!r}: expected 'holm' or 'bonferroni'.")
    return adjusted


@dataclass(frozen=True)
class Significance:
    """When a p-value counts as significant: correction (None: none) and the level it is compared with."""

    correction: Literal["holm", "bonferroni"] | None
    level: float

    def mark(self, p_values: ArrayLike) -> np.ndarray:
        """Whether each p-value, corrected, lies below the level; NaN never does."""
        p = np.asarray(p_values, dtype=float)
        return (adjust(p, self.correction) if self.correction else p) < self.level


# Noothout et al. 2022, section 2.3: single tests at 0.005, which stands for 0.05 with the tests of one data set
# corrected for. The level is fixed, however many tests are made.
SIGNIFICANCE_PRESETS = {
    "holm": Significance("holm", 0.05),
    "bonferroni": Significance("bonferroni", 0.05),
    "noothout2022": Significance(None, 0.005),
}


def bootstrap_interval(
    differences: ArrayLike,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean difference.

    Groups (patients) are drawn with replacement, each with all its cases; without groups each case is its own. The
    interval holds the middle ``confidence`` of the resampled means over cases.
    Source: Efron 1979; cluster bootstrap: Davison and Hinkley 1997, section 3.8.

    Args:
        differences: one for each case, any unit; NaN is left out.
        groups: name of each case's group, in the same order.
        confidence: between 0 and 1.
        resamples: number of bootstrap samples.
        seed: of the resampling; the same input gives the same interval.

    Returns:
        Lower and upper bound; NaN with fewer than two groups, which say nothing about the spread.

    Raises:
        ValueError: for infinite differences, groups of another length, or a confidence that is none.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a number between 0 and 1.")
    sums, sizes = _group_sums(differences, groups)
    if len(sums) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=resamples)
    means = (drawn @ sums) / (drawn @ sizes)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedComparison:
    """First against second method on the same cases; differences are first minus second, in the values' unit.

    Attributes:
        n_cases: cases with a value of both methods.
        n_groups: independent groups (patients) among them; the number of cases where no groups are given.
        left_out: cases in which one of the two values is NaN.
        mean: mean difference over cases; NaN without cases, as the next three.
        median: median difference over cases.
        low: lower bound of the mean's bootstrap interval.
        high: its upper bound.
        confidence: of the interval.
        better: cases in which the first is better.
        worse: cases in which the second is better.
        ties: cases in which both are equal.
        p: two-sided Wilcoxon signed-rank test on the groups' mean differences.
        method: how p was found, or why it is NaN.
    """

    n_cases: int
    n_groups: int
    left_out: int
    mean: float
    median: float
    low: float
    high: float
    confidence: float
    better: int
    worse: int
    ties: int
    p: float
    method: str


def compare_paired(
    first: ArrayLike,
    second: ArrayLike,
    groups: Sequence[str] | None = None,
    higher_is_better: bool = True,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Compares two methods on the same cases.

    Args:
        first: a value for each case; NaN where undefined.
        second: the other method's, in the same order.
        groups: name of each case's group, for example its patient; groups are independent, cases within one are not.
        higher_is_better: False for distances and errors; decides only what ``better`` and ``worse`` count.
        confidence: of the bootstrap interval.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: when the three differ in length, or a difference is infinite.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected two lists of the same cases, found shapes {a.shape} and {b.shape}.")
    _finite(np.concatenate([a, b]))  # infinity minus infinity would pass for a value that is left out
    difference = a - b
    sums, sizes = _group_sums(difference, groups)
    low, high = bootstrap_interval(difference, groups, confidence, resamples, seed)
    p, method = wilcoxon_signed_rank(sums / sizes)
    kept = _finite(difference)
    first_larger, second_larger = int((kept > 0).sum()), int((kept < 0).sum())
    return PairedComparison(
        n_cases=kept.size,
        n_groups=len(sums),
        left_out=difference.size - kept.size,
        mean=float(kept.mean()) if kept.size else float("nan"),
        median=float(np.median(kept)) if kept.size else float("nan"),
        low=low,
        high=high,
        confidence=confidence,
        better=first_larger if higher_is_better else second_larger,
        worse=second_larger if higher_is_better else first_larger,
        ties=int((kept == 0).sum()),
        p=p,
        method=method,
    )


def _finite(differences: ArrayLike) -> np.ndarray:
    d = np.asarray(differences, dtype=float).ravel()
    if np.isinf(d).any():
        raise ValueError("infinite differences have no mean; mark undefined values as NaN.")
    return d[~np.isnan(d)]


def _group_sums(differences: ArrayLike, groups: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the differences of each group that are not NaN."""
    d = np.asarray(differences, dtype=float).ravel()
    kept = _finite(d)
    if groups is None:
        return kept, np.ones(kept.size)
    if len(groups) != d.size:
        raise ValueError(f"{d.size} cases, but {len(groups)} groups.")
    names, member = np.unique(np.asarray(groups, dtype=str)[~np.isnan(d)], return_inverse=True)
    return np.bincount(member, kept, len(names)), np.bincount(member, minlength=len(names)).astype(float)
