"""``nnUNetv2_kd softlabels --raters``: soft labels from the masks of several raters."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_kd.cli import main
from nnunet_kd.data.read_images import ImageError
from nnunet_kd.softlabels.raters import mean_of_masks
from nnunet_kd.softlabels.stores import open_store
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.student_data import load_student
from tests.unit.toy_dataset import blob, make_toy, write_image

SHAPE = (22, 24, 20)
CASES = ("case_0", "case_1")
PLAIN = LabelManager({"background": 0, "one": 1, "two": 2}, None)


def masks(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row).reshape(1, 1, -1) for row in rows]


def test_the_mean_is_the_share_of_the_raters():
    mean = mean_of_masks(masks([0, 1, 2], [0, 1, 1], [0, 2, 1], [1, 1, 1]), PLAIN)
    assert mean.shape == (3, 1, 1, 3)
    np.testing.assert_allclose(mean[:, 0, 0], [[0.75, 0, 0], [0.25, 0.75, 0.75], [0, 0.25, 0.25]])
    assert mean.dtype == np.float32


def test_regions_are_shares_that_need_not_sum_to_one():
    labels = LabelManager({"background": 0, "whole": (1, 2), "core": 2}, (1, 2))
    np.testing.assert_allclose(mean_of_masks(masks([0, 1, 2], [1, 1, 1]), labels)[:, 0, 0], [[0.5, 1, 1], [0, 0, 0.5]])


def test_a_rater_who_ignored_a_voxel_does_not_count_there():
    labels = LabelManager({"background": 0, "one": 1, "ignore": 2}, None)
    np.testing.assert_allclose(mean_of_masks(masks([0, 2, 1], [1, 1, 2]), labels)[:, 0, 0], [[0.5, 0, 0], [0.5, 1, 1]])
    with pytest.raises(ImageError, match="1 voxels have the ignore label of every rater"):
        mean_of_masks(masks([0, 2], [0, 2]), labels)


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    """Two cases with the masks of three raters: as the label, without label 2, and empty."""
    toy = make_toy(tmp_path, monkeypatch, cases=len(CASES))
    toy.write_plans({}, "Student")
    for i, case in enumerate(CASES):
        label = blob(SHAPE, i)[1]
        for rater, mask in (("A", label), ("B", np.minimum(label, 1)), ("C", label * 0)):
            write_image(tmp_path / rater / f"{case}.nii.gz", mask)
    return toy


def command(toy, *raters: str, plans: str = "Student") -> list[str]:
    folders = [str(toy.root / r) for r in raters]
    return ["softlabels", "-d", "900", "-p", plans, "-device", "cpu", "--raters", *folders]


def refused(capsys, words) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def store_of(toy):
    kd, student = load_student(toy.preprocessed / "Student.json", "3d_fullres", toy.raw)
    return open_store(TeachingEnsemble.resolve(kd, student, toy.results, None), create=False)


def test_soft_labels_are_the_mean_and_the_plans_say_where_it_is(toy):
    main(command(toy, "A", "B", "C"))
    label = blob(SHAPE, 1)[1]
    stored = store_of(toy).read("case_1")[:]
    np.testing.assert_allclose(stored[0] / 255, ((label == 1) * 2 + (label == 2)) / 3, atol=0.003)
    np.testing.assert_allclose(stored[1] / 255, (label == 2) / 3, atol=0.003)
    folder = json.loads((toy.preprocessed / "Student.json").read_text())["kd"]["ensemble"]["from_folder"]
    assert folder.startswith(str(toy.preprocessed / "kd_raters"))


def test_the_same_masks_are_not_averaged_again_and_others_get_a_store_of_their_own(toy, capsys):
    main(command(toy, "A", "B"))
    first = store_of(toy).folder
    main(command(toy, "B", "A"))
    assert "0 cases written" in capsys.readouterr().out.splitlines()[-2]
    assert store_of(toy).folder == first
    write_image(toy.root / "B" / "case_0.nii.gz", blob(SHAPE, 5)[1])
    main(command(toy, "A", "B"))
    assert store_of(toy).folder != first


def test_a_case_may_lack_a_rater_but_not_all_of_them(toy, capsys):
    (toy.root / "C" / "case_0.nii.gz").unlink()
    main(command(toy, "A", "B", "C"))
    assert "2 cases, 1 of them with masks of some raters only" in capsys.readouterr().out
    label = blob(SHAPE, 0)[1]
    np.testing.assert_allclose(store_of(toy).read("case_0")[1] / 255, (label == 2) / 2, atol=0.003)
    for rater in "AB":
        (toy.root / rater / "case_0.nii.gz").unlink()
    assert "no rater has a mask of case case_0 (1 of 2 cases lack one)" in refused(capsys, command(toy, "A", "B", "C"))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda mask: mask[1:], "B/case_1.nii.gz: has shape [21, 24, 20], its image [22, 24, 20]"),
        (lambda mask: mask + 5, "B/case_1.nii.gz: holds 5, the labels are 0, 1, 2"),
        (lambda mask: mask * np.float32(0.5), "B/case_1.nii.gz: holds 0.5, the labels are 0, 1, 2"),
    ],
)
def test_a_mask_that_does_not_fit_is_one_sentence_and_leaves_the_plans(toy, capsys, spoil, sentence):
    before = (toy.preprocessed / "Student.json").read_text()
    write_image(toy.root / "B" / "case_1.nii.gz", spoil(blob(SHAPE, 1)[1]))
    assert sentence in refused(capsys, command(toy, "A", "B"))
    assert (toy.preprocessed / "Student.json").read_text() == before


@pytest.mark.parametrize(
    ("move", "key"),
    [
        (lambda mask: mask.SetSpacing((1, 1, 2)), "spacing"),
        (lambda mask: mask.SetOrigin((0, 5, 0)), "origin"),
        (lambda mask: mask.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1)), "direction"),
    ],
)
def test_a_mask_that_lies_elsewhere_is_refused(toy, capsys, move, key):
    file = toy.root / "B" / "case_1.nii.gz"
    mask = sitk.ReadImage(str(file))
    move(mask)
    sitk.WriteImage(mask, str(file))
    assert f"lies elsewhere than its image ({key}" in refused(capsys, command(toy, "A", "B"))


def test_mistakes_in_the_arguments_are_one_sentence(toy, capsys):
    assert "expected two or more folders" in refused(capsys, command(toy, "A"))
    assert "each named once" in refused(capsys, command(toy, "A", "A"))
    assert "nowhere: has no mask of any case, such as case_0.nii.gz" in refused(capsys, command(toy, "A", "nowhere"))
    assert "not allowed with" in refused(capsys, [*command(toy, "A", "B"), "--from", "maps"])
    assert 'has no "kd" block' in refused(capsys, command(toy, "A", "B", plans="nnUNetPlans"))
    assert not (toy.preprocessed / "kd_raters").exists()
