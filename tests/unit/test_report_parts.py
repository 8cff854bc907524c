"""The report's parts: calibration, Pareto front, roles, choice of cases, orientation, who has seen what."""

import json
import math

import blosc2
import numpy as np
import pytest

from nnunet_kd.evaluation.segmentations import LabelDefinition
from nnunet_kd.report import leakage
from nnunet_kd.report.calibration import entropy, near_foreground, reliability
from nnunet_kd.report.costs import Cost, collect_costs, load_benchmark, pareto_front, ratio, same_time
from nnunet_kd.report.formats import number, probability, significant
from nnunet_kd.report.layout import CaseView
from nnunet_kd.report.leakage import find_leakage
from nnunet_kd.report.methods import choose_roles, file_stems
from nnunet_kd.report.overlays import choose_cases, draw_case, slice_of_most_disagreement
from nnunet_kd.report.soft_labels import soft_label_entropy
from nnunet_kd.report.style import COLORS, method_styles
from nnunet_kd.report.volumes import Geometry, Volumes
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.trainers import nnUNetTrainerKDEnsemble
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_plan_command import DATASET_JSON, make_plans

DATASET = "Dataset900_Seen"


def test_expected_calibration_error_by_hand():
    # five voxels: 0.9 right, 0.9 right, 0.9 wrong, 0.6 right, 0.6 wrong
    p = np.array([[0.9, 0.9, 0.9, 0.4, 0.6], [0.1, 0.1, 0.1, 0.6, 0.4]]).reshape(2, 1, 1, 5)
    truth = np.array([0, 0, 1, 1, 1]).reshape(1, 1, 5)
    curve = reliability(p, truth, [1], False, np.ones_like(truth, bool), bins=10)
    assert curve.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 3, 0]
    # 3/5 |2/3 - 0.9| + 2/5 |1/2 - 0.6|
    assert curve.error == pytest.approx(0.6 * (0.9 - 2 / 3) + 0.4 * 0.1)
    both = curve + curve
    assert both.error == pytest.approx(curve.error)
    assert both.count.sum() == 10


def test_regions_are_judged_one_by_one():
    # region (1, 2): 0.8, and it is there; region (2,): 0.3, and it is not
    p = np.array([0.8, 0.3]).reshape(2, 1, 1, 1)
    curve = reliability(p, np.ones((1, 1, 1), int), [(1, 2), (2,)], True, np.ones((1, 1, 1), bool), bins=10)
    assert curve.count.sum() == curve.correct.sum() == 2
    assert curve.error == pytest.approx((0.2 + 0.3) / 2)


def test_a_certain_and_right_prediction_is_calibrated():
    truth = np.array([[[0, 1]]])
    p = np.stack([truth == 0, truth == 1]).astype(float)
    curve = reliability(p, truth, [1], False, np.ones_like(truth, bool))
    assert curve.error == 0
    assert curve.count[-1] == 2
    assert math.isnan(reliability(p, truth, [1], False, np.zeros_like(truth, bool)).error)


def test_calibration_looks_near_the_foreground_in_mm_and_never_at_ignored_voxels():
    reference = np.zeros((5, 9, 9), int)
    reference[2, 4, 4] = 1
    reference[2, 4, 5] = 7
    use = near_foreground(reference, (5.0, 1.0, 2.0), ignore_label=7, margin_mm=4)
    where = np.nonzero(use)
    assert [(w.min(), w.max()) for w in where] == [(1, 3), (0, 8), (2, 6)]
    assert not use[2, 4, 5]
    assert not near_foreground(np.zeros((2, 2, 2)), (1, 1, 1)).any()


def test_entropy_is_a_share_of_the_largest_one():
    p = np.array([[1, 0.5, 1 / 3], [0, 0.5, 1 / 3], [0, 0, 1 / 3]])
    assert entropy(p, False) == pytest.approx([0, math.log(2) / math.log(3), 1], abs=1e-6)
    assert entropy(np.array([[0.5, 1.0], [0.5, 0.0]]), True) == pytest.approx([1, 0], abs=1e-6)


def test_pareto_front_by_hand():
    cost, quality = [1, 2, 3, 4, 2, 5], [0.5, 0.7, 0.6, 0.9, 0.4, 0.9]
    assert pareto_front(cost, quality) == [0, 1, 3]  # 3 costs more than 1 for less; 5 as good as 3, dearer
    assert pareto_front([1, 1], [0.5, 0.5]) == [0, 1]  # neither beats the other
    assert pareto_front([1, 2], [math.nan, 0.3]) == [1]


def test_times_within_the_spread_of_the_runs_are_a_tie():
    a = Cost("a", network_seconds=(0.0511,), network_seconds_of_runs=(0.0508, 0.0511, 0.0519))
    b = Cost("b", network_seconds=(0.0514,), network_seconds_of_runs=(0.0512, 0.0514, 0.0520))
    c = Cost("c", network_seconds=(0.0530,), network_seconds_of_runs=(0.0528, 0.0530, 0.0531))
    costs = [a, b, c]

    def tied(i, j):
        return same_time(costs[i], costs[j])

    assert (tied(0, 1), tied(0, 2)) == (True, False)
    seconds = [x.network_seconds[0] for x in costs]
    assert pareto_front(seconds, [0.8, 0.9, 0.95]) == [0, 1, 2]
    assert pareto_front(seconds, [0.8, 0.9, 0.95], tied) == [1, 2]  # a is no faster than b, and worse
    assert pareto_front(seconds, [0.9, 0.9, 0.9], tied) == [0, 1]
    # a benchmark without runs: the interval of the ratio over the cases
    assert same_time(Cost("a", network_seconds=(1.0, 2.0, 3.0)), Cost("b", network_seconds=(1.1, 1.9, 3.0)))
    assert not same_time(Cost("a", network_seconds=(1.0, 2.0, 3.0)), Cost("b", network_seconds=(1.1, 2.1, 3.1)))
    assert not same_time(Cost("a", network_seconds=(1.0,)), Cost("b", network_seconds=(1.0,)))  # noise is not known


def test_ratio_is_a_geometric_mean_of_the_same_cases():
    found = ratio([8, 2], [2, 2])
    assert found.factor == pytest.approx(2)
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(4)
    assert ratio([], [1]) is None
    assert ratio([1, 2], [1]) is None
    assert math.isnan(ratio([3], [1]).low)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"models": 7}, "not a benchmark"),
        ({"models": {"student": []}}, "not a benchmark"),
        ({"device": ["cpu"]}, "device"),
        ({"versions": {"torch": [["2"]]}}, "versions: expected no more than one level"),
        ({"network_seconds": [1.0, -0.5]}, "models.student.network_seconds"),
        ({"network_seconds": [1.0, math.nan]}, "models.student.network_seconds"),
        ({"network_seconds": 3}, "models.student.network_seconds"),
        ({"network_seconds_of_runs": ["1"]}, "models.student.network_seconds_of_runs"),
        ({"peak_rss_mb": [math.inf]}, "models.student.peak_rss_mb"),
        ({"peak_rss_mb": [True]}, "models.student.peak_rss_mb"),
        ({"cost": 3}, "models.student.cost"),
        ({"cost": {"parameters": -4}}, "models.student.cost.parameters: found -4"),
        ({"cost": {"parameters": 10**40}}, "models.student.cost.parameters"),
        ({"cost": {"flops_per_case": "many"}}, "models.student.cost.flops_per_case"),
    ],
    ids=str,
)
def test_a_benchmark_of_impossible_numbers_is_refused(tmp_path, broken, message):
    content = {"device": "cpu", "models": {"student": {"network_seconds": [1.0], "cost": {"parameters": 4}}}}
    (tmp_path / "benchmark.json").write_text(json.dumps(content))
    found = load_benchmark(tmp_path / "benchmark.json", ["student", "twin"])
    assert collect_costs(["student", "twin"], {}, found)["student"] == Cost("student", None, 4, network_seconds=(1.0,))
    top = {k: v for k, v in broken.items() if k in ("models", "device", "versions")}
    content = content | top if top else {"models": {"student": broken}}
    (tmp_path / "benchmark.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_benchmark(tmp_path / "benchmark.json", ["student"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ensemble", "student", "twin"], ("student", "ensemble", "twin")),
        (["t1", "hard1", "kd1", "ensemble", "kd2"], ("kd1", "ensemble", "hard1")),
        (["undistilled network", "distilled network"], ("distilled network", None, "undistilled network")),
        (["big", "small"], ("small", "big", None)),
        (["big", "small", "other"], ("small", "big", None)),
        (["student", "5 folds"], ("student", "5 folds", None)),
    ],
)
def test_roles_by_name(names, expected):
    roles = choose_roles(names)
    assert (roles.student, roles.ensemble, roles.twin) == expected
    assert roles.reference == (expected[1] or expected[2])


def test_named_roles_win():
    roles = choose_roles(["ensemble", "student", "x"], student="x", twin="student")
    assert (roles.student, roles.ensemble, roles.twin) == ("x", "ensemble", "student")
    with pytest.raises(UserError, match="no such method"):
        choose_roles(["a", "b"], student="c")


def test_file_names_are_harmless_and_distinct():
    assert file_stems(["a/b", "a b", "../..", "A_B"]) == {
        "a/b": "a_b",
        "a b": "a_b_2",
        "../..": "method",
        "A_B": "A_B_3",
    }
    long, other = file_stems(["n" * 260, "n" * 261]).values()
    assert long != other
    assert len(f"paired_{long}_{other}_HD95.png") < 255


def test_styles_tell_many_methods_apart_without_colour():
    names = [f"m{i}" for i in range(9)] + ["student", "ensemble"]
    styles = method_styles(names, choose_roles(names, student="student", ensemble="ensemble"))
    assert len({s.marker for s in styles.values()}) == len(names)
    assert (styles["ensemble"].color, styles["student"].color) == COLORS[:2]


def test_worst_median_and_best_case():
    assert choose_cases([0.5, 0.1, math.nan, 0.9, 0.6]) == [("worst", 1), ("median", 0), ("best", 3)]
    assert choose_cases([0.2, 0.1]) == [("worst", 1), ("best", 0)]
    assert choose_cases([math.nan, 0.3]) == [("only", 1)]
    assert choose_cases([math.nan]) == []
    # a case with a missed structure has no distance to it, and is the worst all the same
    assert choose_cases([-1.0, -5.0, math.nan, -3.0], [1, 0, 2, 0]) == [("worst", 2), ("median", 0), ("best", 3)]


def make_view(reference, prediction, **more):
    spacing, planes = (1.0, 1.0, 1.0), ("axial", "coronal", "sagittal")
    return CaseView(reference, prediction, more.pop("image", None), more.pop("entropy", None), spacing, planes, **more)


def test_the_slice_with_most_disagreement():
    reference = np.zeros((4, 5, 6), np.uint8)
    prediction = reference.copy()
    prediction[3, 1, 2:4] = 1
    prediction[0, 0, 0] = 1
    view = make_view(reference, prediction)
    assert [slice_of_most_disagreement(view, axis) for axis in range(3)] == [3, 1, 0]
    # ignored voxels do not count, and without any disagreement the largest section is shown
    reference[3] = 9
    reference[2, 2:, 2] = 1
    view = make_view(reference, np.where(reference == 9, prediction, reference), ignore_label=9)
    assert slice_of_most_disagreement(view, 0) == 2


@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 9, 5)])
def test_pictures_have_the_planes_there_are_also_of_empty_masks(shape):
    empty = np.zeros(shape, np.uint8)
    full = empty.copy()
    full[:, 2:4, 2:4] = 1
    image, unsure = np.random.default_rng(0).normal(size=shape), np.full(shape, 0.5)
    for view, columns in (
        (make_view(empty, empty), 3),
        (make_view(empty, full, image=image), 3),
        (make_view(full, empty, image=image, entropy=unsure), 4),
    ):
        figure = draw_case(view, [(1,)], "a method with a very long name")
        assert len(figure.axes) == columns * (1 if shape[0] == 1 else 3)


def test_patients_are_shown_head_up_and_from_their_feet():
    # x runs to the patient's right, y to the front, z to the head; stored (z, y, x)
    direction = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    geometry = Geometry.of({"spacing": (3, 1, 2), "sitk_stuff": {"direction": direction}})
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert np.array_equal(geometry.turn(volume), volume[:, ::-1, ::-1])
    # sagittal slices: x runs to the head, y to the back, z to the right
    direction = (0, 0, -1, 0, 1, 0, 1, 0, 0)
    geometry = Geometry.of({"spacing": (3, 1, 2), "sitk_stuff": {"direction": direction}})
    turned = geometry.turn(volume)
    assert turned.shape == (4, 3, 2)
    assert np.array_equal(turned, volume.transpose(2, 1, 0)[:, :, ::-1])
    assert geometry.displayed_spacing_mm == (2, 1, 3)
    assert Geometry.of({"spacing": (999, 1, 1)}).planes[0] == "plane 1"


def test_numbers_as_text():
    assert number(-0.5, 2) == "\u22120.50"
    assert number(math.nan) == "\u2013"
    assert (probability(0.0321), probability(1.7e-10)) == ("0.032", "1.7e\u221210")
    assert [significant(v) for v in (16_809_531, 37.04, 0.12345, 0)] == ["16,809,531", "37.0", "0.123", "0"]


@pytest.fixture
def model_folders(tmp_path, monkeypatch):
    """Teachers with two folds and a student of fold 0; what they trained on is known from the splits."""
    preprocessed = tmp_path / "preprocessed" / DATASET
    images = preprocessed / make_plans()["configurations"]["3d_fullres"]["data_identifier"]
    images.mkdir(parents=True)
    for case in "abcd":
        (images / f"{case}.b2nd").touch()
    splits = [{"train": ["a", "b"], "val": ["c", "d"]}, {"train": ["c", "d"], "val": ["a", "b"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))

    def make(trainer, folds, kd=None):
        folder = tmp_path / "results" / DATASET / f"{trainer}__P__3d_fullres"
        plans = make_plans() | {"dataset_name": DATASET, "plans_name": "P"}
        for fold, split in zip("01", splits, strict=True):
            (folder / f"fold_{fold}" / "validation").mkdir(parents=True, exist_ok=True)
            (folder / f"fold_{fold}" / "checkpoint_final.pth").touch()
            for case in split["val"]:
                (folder / f"fold_{fold}" / "validation" / f"{case}.nii.gz").touch()
        (folder / "plans.json").write_text(json.dumps(plans | ({} if kd is None else {"kd": kd})))
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
        return TeacherModel(folder, "3d_fullres", folds)

    return make


def kd_block(**ensemble):
    return {"teachers": [{"folder": "nnUNetTrainer__P__3d_fullres"}], "ensemble": ensemble}


def test_a_model_that_trained_on_evaluated_cases_is_named(model_folders):
    teachers = model_folders("nnUNetTrainer", (0, 1))
    found = find_leakage("ensemble", [teachers], ["a", "c", "z"])
    assert found.trained_on == ("a", "c")
    assert "trained on 2 of the 3 evaluated cases" in found.sentences(3)[0]
    assert find_leakage("ensemble", [teachers.with_folds([0])], ["c", "z"]).sentences(2) == []
    everything = TeacherModel(teachers.folder, "3d_fullres", ("all",))
    assert "all 2 evaluated cases" in find_leakage("x", [everything], ["a", "d"]).sentences(2)[0]


def test_a_student_whose_teachers_saw_its_validation_cases_is_named_and_its_twin_is_not(model_folders):
    model_folders("nnUNetTrainer", (0, 1))
    student = model_folders("nnUNetTrainerKDEnsemble", (0,), kd_block())
    found = find_leakage("student", [student], ["c", "d"])
    assert (found.trained_on, found.taught_by) == ((), ("c", "d"))
    assert "teachers of student trained on all 2 evaluated cases" in found.sentences(2)[0]
    twin = model_folders("nnUNetTrainerKDTeacher", (0,), kd_block())
    assert find_leakage("twin", [twin], ["c", "d"]).sentences(2) == []
    heir = model_folders("nnUNetTrainerKDTeacher", (0,), kd_block() | {"student": {"twin_start": "same"}})
    assert find_leakage("heir", [heir], ["c", "d"]).taught_by == ("c", "d")
    # teachers of the same fold have not seen them
    student = model_folders("nnUNetTrainerKDEnsemble", (0,), kd_block(membership="same_fold"))
    assert find_leakage("student", [student], ["c", "d"]).sentences(2) == []
    # but one that it inherits from may have
    named = {"student": {"inherit_from": "nnUNetTrainer__P__3d_fullres:1"}}
    heir = model_folders("nnUNetTrainerKDEnsemble", (0,), kd_block(membership="same_fold") | named)
    assert find_leakage("heir", [heir], ["c", "d"]).taught_by == ("c", "d")


def test_a_trainer_is_asked_whether_it_had_teachers_and_not_its_name(model_folders, monkeypatch):
    model_folders("nnUNetTrainer", (0, 1))
    student = model_folders("TrainerOfAnotherPackage", (0,), kd_block())
    found = find_leakage("student", [student], ["c", "d"])
    assert found.taught_by == ()
    assert "cannot be imported" in found.unknown, "a trainer that is not installed cannot say whether it had teachers"
    trainer = type("TrainerOfAnotherPackage", (nnUNetTrainerKDEnsemble,), {})
    monkeypatch.setattr(leakage, "find_trainer", lambda name: trainer)
    assert find_leakage("student", [student], ["c", "d"]).taught_by == ("c", "d")


def test_without_preprocessed_data_the_validations_tell(model_folders, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    model = model_folders("nnUNetTrainer", (0,))
    assert find_leakage("x", [model], ["a", "c"]).trained_on == ("a",)


def test_what_cannot_be_checked_is_said(model_folders, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    model = model_folders("nnUNetTrainer", (0,))
    for file in (model.folder / "fold_1" / "validation").iterdir():
        file.unlink()
    assert "Not checked whether x has seen" in find_leakage("x", [model], ["a"]).sentences(1)[0]
    imported = model_folders("nnUNetTrainerKDEnsemble", (0,), kd_block(from_folder="elsewhere"))
    assert "probability maps from elsewhere" in find_leakage("y", [imported], ["c"]).sentences(1)[0]


def test_entropy_of_a_soft_label_store(tmp_path):
    manifest = {"format": 1, "identity": {"dtype": "uint8"}, "labels": {"regions": False}, "versions": {}}
    store = SoftLabelStore.create(tmp_path / "store", manifest)
    for i, sure in enumerate((1.0, 0.5, 0.8)):
        foreground = np.zeros((4, 6, 6))
        foreground[1:3, 2:4, 2:4] = sure
        store.write(f"case{i}", np.stack([1 - foreground, foreground]), (4, 4, 4), {})
    found = soft_label_entropy(tmp_path / "store")
    expected = [-(p * math.log2(p) + (1 - p) * math.log2(1 - p)) if p < 1 else 0 for p in (1, 128 / 255, 204 / 255)]
    assert list(found.mean.values()) == pytest.approx(expected, abs=1e-5)
    assert list(found.figures) == [("lowest", "case0"), ("median", "case2"), ("highest", "case1")]
    blosc2.open(str(store.file("case1")), mode="a")[:] = 77
    with pytest.raises(UserError, match=r"case1.b2nd: is damaged \(SHA-256 differs\)"):
        soft_label_entropy(tmp_path / "store")
    assert len(found.figures["median", "case2"].axes) == 3
    with pytest.raises(UserError, match="no case"):
        soft_label_entropy(SoftLabelStore.create(tmp_path / "empty", manifest).folder)


def write_map(file, array):
    np.savez(file, probabilities=array)


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 1, 2, 2), "a"),
        np.full((2, 1, 2, 2), 0.5 + 0j),
        np.full((2, 1, 2, 2), math.nan),
        np.full((2, 1, 2, 2), -3.0),
        np.full((2, 1, 2, 2), 200, np.uint8),
        np.full((2, 1, 2, 2), {}, object),
        np.zeros((2, 0, 2, 2)),
        np.zeros((3, 1, 2, 2)),
        np.zeros(2),
    ],
    ids=["text", "complex", "NaN", "negative", "counts", "objects", "no voxels", "channels", "axes"],
)
def test_what_is_no_map_of_probabilities_is_named(tmp_path, array):
    content = {"labels": {"background": 0, "cell": 1}, "file_ending": ".nii.gz"}
    volumes = Volumes(LabelDefinition((), None, ".nii.gz", content), tmp_path)
    good = np.full((2, 1, 2, 2), 0.5, np.float16)
    write_map(tmp_path / "a.npz", good)
    assert np.array_equal(volumes.probabilities(tmp_path, "a"), good)
    write_map(tmp_path / "a.npz", array)
    with pytest.raises(UserError, match=r"a\.npz"):
        volumes.probabilities(tmp_path, "a")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    with pytest.raises(UserError, match=r"a\.npz"):
        volumes.probabilities(tmp_path, "a")
