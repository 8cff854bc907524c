"""Overlap, volume and surface metrics of segmentations, and the one rule for empty masks.

Formulas, units and agreement with other packages: docs/reference/metrics.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from nnunet_kd.evaluation.surfaces import Spacing, surface_metrics
from nnunet_kd.utilities.errors import UserError

EmptyRule = Literal["nan", "flare"]
EMPTY_RULES: dict[EmptyRule, str] = {
    "nan": "both masks empty: every metric but the volumes is NaN and left out of means, as in nnU-Net",
    "flare": "both masks empty: Dice, IoU and NSD are 1 and VOE is 0, as in FLARE; RVD and distances are NaN",
}
EMPTY_RULE_OF: dict[EmptyRule, str] = {"nan": "nnU-Net", "flare": "FLARE"}
ONE_EMPTY = "one mask empty: Dice, IoU and NSD are 0, VOE is 1, distances are NaN; RVD is NaN without a reference"
FLARE22_TOLERANCES_MM = {
    **dict.fromkeys(("liver", "pancreas", "stomach"), 5.0),
    **dict.fromkeys(("kidney", "spleen", "esophagus"), 3.0),
    **dict.fromkeys(("aorta", "ivc", "adrenal", "gallbladder"), 2.0),
    "duodenum": 7.0,
}
DEFAULT_TOLERANCE_MM = 1.0
SYNONYMS = {
    **{"kidneys": "kidney", "oesophagus": "esophagus", "adrenals": "adrenal", "gall bladder": "gallbladder"},
    **{"inferior vena cava": "ivc", "postcava": "ivc"},
}


@dataclass(frozen=True)
class Label:
    """A label or region of ``dataset.json``.

    Attributes:
        key: as nnU-Net writes it into ``summary.json``: ``"1"``, ``"(1, 2)"``.
        name: as in ``dataset.json``.
        values: the labels that belong to it.
    """

    key: str
    name: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class MetricSettings:
    """What can be chosen.

    Attributes:
        nsd_tolerance_mm: tolerance of NSD by label name; in pixels for images without physical units.
        default_tolerance_mm: tolerance of all other labels; None: FLARE22's for its organs, else 1 mm (1 pixel).
        empty: rule for labels that neither mask has, see :data:`EMPTY_RULES`.

    Raises:
        UserError: when a tolerance is not a length, or the rule is unknown.
    """

    nsd_tolerance_mm: Mapping[str, float] = field(default_factory=dict)
    default_tolerance_mm: float | None = None
    empty: EmptyRule = "nan"

    def __post_init__(self):
        given = {**self.nsd_tolerance_mm, "all labels": self.default_tolerance_mm}
        for name, tolerance in given.items():
            if tolerance is not None and not 0 <= tolerance < float("inf"):
                raise UserError(f"NSD tolerance of {name}: {tolerance} is not a length in mm (0 or more).")
        if self.empty not in get_args(EmptyRule):
            raise UserError(f"rule for empty masks: {self.empty!r} is none of {', '.join(EMPTY_RULES)}.")

    def tolerance_of(self, label: str, physical: bool = True) -> float:
        """NSD tolerance: the label's own, else the default, else FLARE22's for an organ of this name, else 1.

        Args:
            label: name.
            physical: the image's distances are in mm; in pixels, FLARE22's tolerances do not apply.
        """
        if label in self.nsd_tolerance_mm:
            return self.nsd_tolerance_mm[label]
        if self.default_tolerance_mm is not None:
            return self.default_tolerance_mm
        if not physical:
            return DEFAULT_TOLERANCE_MM
        apart = re.sub(
            r"\(.*?\)|[^A-Za-z]|(?<=[a-z])(?=[A-Z])", " ", label
        )  # "RightKidney", "IVC (vein)", "kidney_left"
        words = apart.lower().split()
        organ = " ".join(w for w in words if w not in ("left", "right", "gland", "glands"))
        return FLARE22_TOLERANCES_MM.get(SYNONYMS.get(organ, organ), DEFAULT_TOLERANCE_MM)


def segmentation_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing,
    voxel_ml: float,
    labels: Sequence[Label],
    settings: MetricSettings,
    ignore_label: int | None = None,
    physical: bool = True,
) -> dict[str, dict[str, float]]:
    """All metrics of every label, by its key.

    Args:
        prediction: integer labels, 2D or 3D, none below 0.
        reference: of the same shape.
        spacing_mm: voxel size along each axis.
        voxel_ml: volume of a voxel.
        labels: labels or regions.
        settings: tolerances and rule for empty masks.
        ignore_label: voxels that have it in the reference belong to neither mask.
        physical: the spacing is in mm, and not in pixels.
    """
    largest = max(1, *(v for label in labels for v in label.values))  # one stray voxel may have a label of millions
    boxes = [ndimage.find_objects(s, largest) for s in (prediction, reference)]
    n_valid = reference.size - (0 if ignore_label is None else int(np.count_nonzero(reference == ignore_label)))
    result = {}
    for label in labels:
        box = _union([found[v - 1] for found in boxes for v in label.values if 0 < v <= len(found)])
        if 0 in label.values:  # a region with background is not confined to a box
            box = (slice(None),) * reference.ndim
        p, g = (np.isin(s[box], label.values) for s in (prediction, reference))
        if ignore_label is not None:
            p &= reference[box] != ignore_label
        metrics = mask_metrics(p, g, spacing_mm, voxel_ml, settings.tolerance_of(label.name, physical), settings.empty)
        metrics["TN"] = n_valid - int(metrics["TP"] + metrics["FP"] + metrics["FN"])
        result[label.key] = metrics
    return result


def mask_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing,
    voxel_ml: float,
    nsd_tolerance_mm: float,
    empty: EmptyRule = "nan",
) -> dict[str, float]:
    """All metrics of one pair of masks P (prediction) and G (reference), and nnU-Net's counts.

    Dice 2 |P n G| / (|P| + |G|); IoU |P n G| / |P u G|; VOE 1 - IoU; RVD (|P| - |G|) / |G|; volumes in ml; the surface
    metrics of :func:`nnunet_kd.evaluation.surfaces.surface_metrics`.

    Source: Noothout et al. 2022, Eq. 2 (Dice); Qin et al. 2021, Eq. 11-12 (VOE, RVD).
    Deviation: Eq. 11 as printed divides by |P| + |G|, which gives 0.5 at equality; the volumetric overlap error of the
    field has the union.

    Args:
        prediction: boolean, 2D or 3D.
        reference: of the same shape.
        spacing_mm: voxel size along each axis.
        voxel_ml: volume of a voxel.
        nsd_tolerance_mm: distance up to which surfaces count as the same.
        empty: what holds where both masks are empty, see :data:`EMPTY_RULES`.
    """
    n_pred, n_ref = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    tp = int(np.count_nonzero(prediction & reference))
    union = n_pred + n_ref - tp
    nan = float("nan")
    overlap = {"Dice": 2 * tp / (n_pred + n_ref), "IoU": tp / union} if union else {"Dice": nan, "IoU": nan}
    result = {
        **overlap,
        **surface_metrics(prediction, reference, spacing_mm, nsd_tolerance_mm),
        "VOE": 1 - overlap["IoU"],
        "RVD": (n_pred - n_ref) / n_ref if n_ref else nan,
        "volume_pred_ml": n_pred * voxel_ml,
        "volume_ref_ml": n_ref * voxel_ml,
        **{"TP": tp, "FP": n_pred - tp, "FN": n_ref - tp, "n_pred": n_pred, "n_ref": n_ref},
    }
    if not union and empty == "flare":
        result |= {"Dice": 1.0, "IoU": 1.0, "NSD": 1.0, "VOE": 0.0}
    return result


def _union(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    """Smallest box around boxes; an empty one where there is none."""
    there = [b for b in boxes if b is not None]
    if not there:
        return (slice(0, 0),)
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*there, strict=True))
