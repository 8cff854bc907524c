"""Metrics of masks: values by hand, properties, empty masks, agreement with independent packages."""

import math

import numpy as np
import pytest

from nnunet_kd.evaluation.metrics import Label, MetricSettings, mask_metrics, segmentation_metrics
from nnunet_kd.evaluation.surfaces import surface_elements_mm, surface_metrics, surface_voxels_mm
from nnunet_kd.utilities.errors import UserError
from tests.reference.segmentation_pairs import PACKAGES, TOLERANCE_MM, random_pairs

DISTANCES = ("HD", "HD95", "ASSD", "MSD")


def mask(shape, *boxes):
    """Boolean array that is true in boxes of (start, stop) along each axis."""
    result = np.zeros(shape, dtype=bool)
    for box in boxes:
        result[tuple(slice(*b) for b in box)] = True
    return result


def metrics_of(prediction, reference, spacing_mm=(1, 1, 1), tolerance_mm=1.0, empty="nan"):
    return mask_metrics(prediction, reference, spacing_mm, math.prod(spacing_mm) / 1000, tolerance_mm, empty)


def test_two_voxels_are_as_far_apart_as_pythagoras_says():
    a, b = mask((9, 9, 9), [(1, 2)] * 3), mask((9, 9, 9), [(2, 3), (4, 5), (7, 8)])
    metrics = surface_metrics(a, b, (4.0, 1.0, 0.5), 1.0)
    assert [metrics[d] for d in DISTANCES] == pytest.approx([math.sqrt(4**2 + 3**2 + 3**2)] * 4)


def test_a_cube_moved_along_the_thick_axis():
    """Of 4 layers of 4x4 voxels, 3 mm apart, moved by two: the outer layers are 6 mm off, what overlaps less."""
    a, b = (mask((12, 8, 8), [(start, start + 4), (2, 6), (2, 6)]) for start in (2, 4))
    metrics = metrics_of(a, b, (3, 1, 1))
    assert metrics["Dice"] == metrics["RVD"] + 0.5 == 0.5
    assert metrics["IoU"] == pytest.approx(1 / 3)
    assert metrics["VOE"] == pytest.approx(2 / 3)
    assert metrics["volume_pred_ml"] == pytest.approx(4 * 4 * 4 * 3 / 1000)
    assert metrics["HD"] == pytest.approx(6)
    # 56 surface voxels: first layer 16 at 6 mm; second: rim 12 at 3 mm (its 4 inner voxels are no surface); third
    # layer: rim 12 on the other's first layer, fourth: rim 12 of 16 on the other's rim, 4 inner voxels 1 mm beside it
    assert metrics["ASSD"] == metrics["MSD"] == pytest.approx((16 * 6 + 12 * 3 + 4 * 1) / 56)


def test_distances_are_directed_where_the_paper_directs_them():
    """X is one voxel of Y, whose other voxel is 3 mm away."""
    x, y = mask((1, 9), [(0, 1), (2, 3)]), mask((1, 9), [(0, 1), (2, 3)], [(0, 1), (5, 6)])
    metrics = surface_metrics(x, y, (1.0, 1.0), 1.0)
    assert metrics == pytest.approx({"HD": 3, "HD95": 0.95 * 3, "ASSD": (0 + 1.5) / 2, "MSD": 0, "NSD": 8 / 12})
    assert surface_metrics(y, x, (1.0, 1.0), 1.0)["MSD"] == 1.5


@pytest.mark.parametrize(("tolerance_mm", "share"), [(1.9, 0.0), (2.0, 0.5), (3.0, 1.0)])
def test_surface_elements_within_the_tolerance_count(tolerance_mm, share):
    """The corners of two pixels, three apart: two are 2 mm from the other pixel, two are 3 mm."""
    a, b = mask((3, 9), [(1, 2), (1, 2)]), mask((3, 9), [(1, 2), (4, 5)])
    assert surface_metrics(a, b, (5.0, 1.0), tolerance_mm)["NSD"] == share


def test_a_tolerance_of_whole_voxels_counts_whatever_the_rounding():
    a, b = mask((3, 9), [(1, 2), (1, 2)]), mask((3, 9), [(1, 2), (4, 5)])
    assert 3 * 0.1 > 0.3
    assert surface_metrics(a, b, (1.0, 0.1), 0.3)["NSD"] == 1


def test_areas_of_surface_elements_are_those_of_the_bevelled_box():
    """3 x 4 x 5 voxels of 2 mm: whole squares on the faces, half diagonals on the edges, triangles at the corners."""
    _, areas = surface_elements_mm(mask((9, 9, 9), [(2, 5), (2, 6), (2, 7)]), (2.0, 2.0, 2.0))
    faces, edges = 2 * (2 * 3 + 2 * 4 + 3 * 4), 4 * (2 + 3 + 4)
    assert areas.sum() == pytest.approx(4 * (faces + edges * math.sqrt(1 / 2) + 8 * math.sqrt(3) / 8))
    points, lengths = surface_elements_mm(mask((5, 5), [(1, 3), (1, 4)]), (3.0, 4.0))
    assert len(points) == 10
    assert lengths.sum() == pytest.approx(2 * 3 + 4 * 4 + 4 * 2.5)  # sides without their ends, corners cut


def test_a_mask_has_a_surface_where_the_image_ends():
    full = np.ones((5, 5, 5), dtype=bool)
    assert len(surface_voxels_mm(full, (1, 1, 1))) == 5**3 - 3**3
    assert len(surface_elements_mm(full, (1, 1, 1))[0]) == 6**3 - 4**3


def test_a_mask_against_itself_is_perfect():
    (a, _, spacing_mm), *_ = random_pairs(3, 1)
    metrics = metrics_of(a, a, spacing_mm)
    assert [metrics[m] for m in ("Dice", "IoU", "NSD")] == [1, 1, 1]
    assert [metrics[m] for m in (*DISTANCES, "VOE", "RVD")] == [0] * 6
    assert (
        metrics["volume_pred_ml"] == metrics["volume_ref_ml"] == pytest.approx(a.sum() * math.prod(spacing_mm) / 1000)
    )


def test_exchange_units_and_surroundings():
    (a, b, spacing_mm), *_ = random_pairs(3, 1)
    metrics = metrics_of(a, b, spacing_mm)
    other = metrics_of(b, a, spacing_mm)
    for name in ("Dice", "IoU", "VOE", "HD", "HD95", "ASSD", "NSD"):
        assert other[name] == pytest.approx(metrics[name])
    doubled = metrics_of(a, b, [2 * s for s in spacing_mm], tolerance_mm=2.0)
    assert doubled == pytest.approx(
        metrics
        | {d: 2 * metrics[d] for d in DISTANCES}
        | {v: 8 * metrics[v] for v in ("volume_pred_ml", "volume_ref_ml")}
    )
    assert metrics_of(np.pad(a, 3), np.pad(b, 3), spacing_mm) == pytest.approx(metrics)


@pytest.mark.parametrize("rule", ["nan", "flare"])
def test_empty_masks(rule):
    nothing, something = mask((4, 4, 4)), mask((4, 4, 4), [(1, 3)] * 3)
    both = metrics_of(nothing, nothing, empty=rule)
    right = {"nan": [math.nan] * 4, "flare": [1, 1, 1, 0]}[rule]
    assert [both[m] for m in ("Dice", "IoU", "NSD", "VOE")] == pytest.approx(right, nan_ok=True)
    assert all(math.isnan(both[m]) for m in (*DISTANCES, "RVD"))
    assert both["volume_pred_ml"] == both["volume_ref_ml"] == 0
    for prediction, reference, rvd in ((something, nothing, math.nan), (nothing, something, -1)):
        one = metrics_of(prediction, reference, empty=rule)
        assert [one[m] for m in ("Dice", "IoU", "NSD", "VOE")] == [0, 0, 0, 1]
        assert all(math.isnan(one[m]) for m in DISTANCES)
        assert one["RVD"] == pytest.approx(rvd, nan_ok=True)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_agreement_with_an_independent_package(package, dimensions):
    pytest.importorskip(package)
    for prediction, reference, spacing_mm in random_pairs(dimensions, 8):
        mine = metrics_of(prediction, reference, spacing_mm, TOLERANCE_MM)
        theirs = PACKAGES[package](prediction, reference, spacing_mm)
        assert {name: mine[name] for name in theirs} == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_labels_regions_and_the_ignore_label_count_as_in_nnunet(tmp_path):
    """Counts, Dice and IoU against nnU-Net's own function on random labels."""
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics

    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, (6, 7, 8)), rng.integers(0, 5, (6, 7, 8))

    class Arrays:
        def read_seg(self, name):
            return {"p": prediction, "r": reference}[name], {}

    labels = [Label("1", "one", (1,)), Label("(1, 2, 3)", "all", (1, 2, 3)), Label("3", "three", (3,))]
    for ignore in (None, 4):
        theirs = compute_metrics("r", "p", Arrays(), [1, (1, 2, 3), 3], ignore)["metrics"]
        mine = segmentation_metrics(prediction, reference, (1, 1, 1), 1, labels, MetricSettings(), ignore)
        for label, key in zip(labels, (1, (1, 2, 3), 3), strict=True):
            assert {m: mine[label.key][m] for m in theirs[key]} == pytest.approx(theirs[key])


def test_ignored_voxels_belong_to_neither_surface():
    reference = np.zeros((3, 20, 20), dtype=int)
    reference[:, 2:8, 2:8], reference[:, :, 12:] = 1, 2
    prediction = (reference == 1).astype(int)
    prediction[:, 5, 15] = 1
    metrics = segmentation_metrics(
        prediction, reference, (1, 1, 1), 1, [Label("1", "organ", (1,))], MetricSettings(), ignore_label=2
    )["1"]
    assert (metrics["Dice"], metrics["HD"], metrics["NSD"], metrics["FP"]) == (1, 0, 1, 0)


def test_an_absent_label_beside_others_is_empty():
    image = np.ones((3, 3, 3), dtype=int)
    metrics = segmentation_metrics(image, image, (1, 1, 1), 1, [Label("7", "rare", (7,))], MetricSettings())["7"]
    assert math.isnan(metrics["Dice"])
    assert (metrics["TP"], metrics["TN"]) == (0, 27)


@pytest.mark.parametrize(
    ("label", "tolerance_mm"),
    [
        ("liver", 5),
        ("Right Kidney", 3),
        ("kidney_left", 3),
        ("oesophagus", 3),
        ("RightAdrenal", 2),
        ("adrenal_gland_left", 2),
        ("Inferior Vena Cava (IVC)", 2),
        ("duodenum", 7),
        ("liver tumor", 1),
        ("anterior", 1),
    ],
)
def test_flares_tolerances_are_found_by_the_organs_name(label, tolerance_mm):
    assert MetricSettings().tolerance_of(label) == tolerance_mm


def test_given_tolerances_win_over_the_table():
    settings = MetricSettings({"liver": 2.5}, default_tolerance_mm=4)
    assert [settings.tolerance_of(name) for name in ("liver", "spleen", "x")] == [2.5, 4, 4]


@pytest.mark.parametrize(
    "arguments",
    [{"nsd_tolerance_mm": {"a": -1.0}}, {"default_tolerance_mm": math.nan}, {"empty": "zero"}],
    ids=["negative", "nan", "rule"],
)
def test_settings_that_mean_nothing_are_refused(arguments):
    with pytest.raises(UserError):
        MetricSettings(**arguments)
