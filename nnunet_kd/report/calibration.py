"""Calibration of probabilities: reliability, expected calibration error and entropy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15
MARGIN_MM = 10.0


@dataclass(frozen=True)
class Reliability:
    """Voxels by how sure their prediction is, summed over one case or several.

    Attributes:
        count: voxels in each bin of equal width over confidences from 0 to 1, float64 of shape (bins,).
        confidence: sum of the confidences in each bin.
        correct: voxels in each bin whose prediction is right.
    """

    count: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(self.count + other.count, self.confidence + other.confidence, self.correct + other.correct)

    @property
    def error(self) -> float:
        r"""Expected calibration error.

        .. math:: ECE = \sum_b \frac{n_b}{n} |acc_b - conf_b|

        Source: Guo et al. 2017 (On calibration of modern neural networks), Eq. 3; here a sample is a voxel.

        Returns:
            0 (calibrated) to 1; NaN without voxels.
        """
        total = self.count.sum()
        return float(np.abs(self.correct - self.confidence).sum() / total) if total else float("nan")

    @property
    def mean_confidence(self) -> np.ndarray:
        """Mean confidence of each bin, NaN in empty ones."""
        return _ratio(self.confidence, self.count)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of right predictions in each bin, NaN in empty ones."""
        return _ratio(self.correct, self.count)


@dataclass(frozen=True)
class Calibration:
    """How well a method's probabilities are calibrated.

    Attributes:
        method: its name.
        curve: all voxels of all its cases with probabilities.
        case_errors: expected calibration error of each of these cases.
    """

    method: str
    curve: Reliability
    case_errors: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean error over cases."""
        return float(np.mean(list(self.case_errors.values())))

    @property
    def sd(self) -> float:
        """Sample standard deviation over cases; NaN for a single case."""
        return float(np.std(list(self.case_errors.values()), ddof=1)) if len(self.case_errors) > 1 else float("nan")

    @property
    def overconfidence(self) -> float:
        """Mean confidence minus the share of right voxels."""
        return float((self.curve.confidence.sum() - self.curve.correct.sum()) / self.curve.count.sum())


def reliability(
    probabilities: np.ndarray,
    reference: np.ndarray,
    foreground: Sequence[int | tuple[int, ...]],
    regions: bool,
    use: np.ndarray,
    bins: int = BINS,
) -> Reliability:
    """Bins the voxels of one case by confidence.

    The confidence of a voxel is the highest of its class probabilities, and it is right where that class is the
    reference's. Regions are judged one by one: confidence ``max(p, 1 - p)``, right where ``p > 0.5`` is the reference.

    Args:
        probabilities: (C, z, y, x) with background first, or (R, z, y, x) with ``regions``; from 0 to 1.
        reference: (z, y, x) labels.
        foreground: labels 1 ... C - 1, or the R regions as tuples of labels.
        regions: independent sigmoids instead of a softmax.
        use: (z, y, x) mask of the voxels that count.
        bins: number of bins.
    """
    chosen, truth = probabilities[:, use], reference[use]
    if regions:
        wanted = np.stack([np.isin(truth, np.atleast_1d(r)) for r in foreground])
        confidence, right = np.maximum(chosen, 1 - chosen).ravel(), ((chosen > 0.5) == wanted).ravel()
    else:
        classes = np.array([0, *foreground])
        confidence, right = chosen.max(0), classes[chosen.argmax(0)] == truth
    index = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)  # (low, high]
    return Reliability(
        np.bincount(index, minlength=bins).astype(float),
        np.bincount(index, confidence, minlength=bins),
        np.bincount(index, right, minlength=bins),
    )


def near_foreground(
    reference: np.ndarray, spacing_mm: Sequence[float], ignore_label: int | None = None, margin_mm: float = MARGIN_MM
) -> np.ndarray:
    """Voxels in the bounding box of the reference's foreground, grown by a margin, without ignored ones.

    Far from the organs every method is sure and right, and that alone would decide the calibration of a whole image.
    The box depends on the reference only, never on a prediction, so it favours no method.

    Args:
        reference: (z, y, x) labels.
        spacing_mm: of the three axes.
        ignore_label: label to leave out, or None.
        margin_mm: margin on every side.

    Returns:
        Mask (z, y, x); empty where the reference has no foreground.
    """
    inside = np.zeros(reference.shape, dtype=bool)
    known = np.ones_like(inside) if ignore_label is None else reference != ignore_label
    where = np.nonzero((reference > 0) & known)
    if where[0].size:
        box = tuple(
            slice(max(0, int(w.min() - np.ceil(margin_mm / mm))), int(w.max() + np.ceil(margin_mm / mm)) + 1)
            for w, mm in zip(where, spacing_mm, strict=True)
        )
        inside[box] = True
    return inside & known


def entropy(probabilities: np.ndarray, regions: bool) -> np.ndarray:
    r"""Entropy of every voxel, as a share of the largest possible one.

    .. math:: H = -\sum_c p_c \ln p_c / \ln C

    Regions: the mean of their binary entropies, over :math:`\ln 2`.

    Args:
        probabilities: (C, ...) that sum to 1, or (R, ...) with ``regions``.
        regions: independent sigmoids instead of a softmax.

    Returns:
        (...), float32 from 0 (sure) to 1.
    """
    p = np.clip(probabilities, 0, 1).astype(np.float32)
    terms = -p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    if regions:
        terms -= (1 - p) * np.log(np.maximum(1 - p, np.finfo(np.float32).tiny))
        return np.clip(terms.mean(0) / np.log(2), 0, 1)
    return np.clip(terms.sum(0) / np.log(max(len(p), 2)), 0, 1)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)
