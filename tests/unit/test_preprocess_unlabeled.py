"""``nnUNetv2_kd preprocess-unlabeled``: nnU-Net's own preprocessing, whole cases, refusals with one sentence."""

import shutil
import subprocess
import sys
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pytest
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.cli import main
from nnunet_kd.data.preprocess_unlabeled import find_fault
from nnunet_kd.teachers.student_data import load_student
from tests.unit.test_plan_command import DATASET_JSON
from tests.unit.toy_dataset import make_toy, plans_of, write_image

COMMAND = ["preprocess-unlabeled", "-d", "900", "-np", "1"]


@pytest.fixture(name="toy")
def _toy(tmp_path, monkeypatch):
    return make_toy(tmp_path, monkeypatch, cases=2)


def space_of(toy):
    return load_student(toy.preprocessed / "nnUNetPlans.json", "3d_fullres", toy.raw)[1]


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*COMMAND, *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_images_become_what_nnunet_makes_of_them_beside_the_labeled_data(toy, tmp_path, capsys):
    toy.add_unlabeled("new_1")
    toy.add_unlabeled("new_2", folder="more")
    main([*COMMAND, "-i", str(toy.raw / "more")])
    printed = capsys.readouterr().out
    assert "2 cases preprocessed, 0 were there already" in printed
    assert "Next: nnUNetv2_kd plan -d 900 -c 3d_fullres -p nnUNetPlans -o NAME --set unlabeled.fraction=0.5" in printed
    space = space_of(toy)
    assert space.unlabeled_cases == ["new_1", "new_2"]
    assert space.cases() == ["case_0", "case_1", "new_1", "new_2"]
    assert space.cases(labeled_only=True) == ["case_0", "case_1"]

    configuration = PlansManager(plans_of()).get_configuration("3d_fullres")
    data, mask, properties = DefaultPreprocessor(verbose=False).run_case(
        [str(toy.raw / "imagesUn" / "new_1_0000.nii.gz")], None, PlansManager(plans_of()), configuration, DATASET_JSON
    )
    image, nonzero, previous, found = space.load_case("new_1")
    np.testing.assert_array_equal(image[:], data)
    np.testing.assert_array_equal(nonzero[:], mask)
    assert previous is None
    assert found["shape_before_cropping"] == properties["shape_before_cropping"]
    assert space.image_files("new_2") == [toy.raw / "more" / "new_2_0000.nii.gz"]

    # stock nnU-Net still sees its labeled cases only
    stock = infer_dataset_class(str(space.folder))(str(space.folder))
    assert stock.identifiers == ["case_0", "case_1"]


def test_what_is_there_is_not_done_again_and_nothing_else_is_left(toy, capsys):
    toy.add_unlabeled("new_1", "new_2")
    main([*COMMAND, "--num_parts", "2", "--part_id", "1"])
    assert space_of(toy).unlabeled_cases == ["new_2"]
    written = space_of(toy).unlabeled_folder / "new_2.b2nd"
    before = written.stat().st_mtime_ns
    main(COMMAND)
    assert "1 cases preprocessed, 1 were there already; 2 cases" in capsys.readouterr().out
    assert written.stat().st_mtime_ns == before
    toy.write_plans({"unlabeled": {"fraction": 0.5}}, "Semi")
    main([*COMMAND, "-p", "Semi"])
    assert "Next: nnUNetv2_kd softlabels -d 900 -c 3d_fullres -p Semi" in capsys.readouterr().out
    names = sorted(f.name for f in written.parent.iterdir())
    assert names == [f"new_{i}{e}" for i in (1, 2) for e in (".b2nd", ".pkl", "_seg.b2nd")]


@pytest.mark.parametrize(("ending", "size"), [(".b2nd", 0), ("_seg.b2nd", 60), (".pkl", None)])
def test_a_broken_case_is_preprocessed_again(toy, capsys, ending, size):
    toy.add_unlabeled("new_1", "new_2")
    main(COMMAND)
    file = space_of(toy).unlabeled_folder / f"new_1{ending}"
    if size is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:size])
    capsys.readouterr()
    main(COMMAND)
    assert "1 cases preprocessed, 1 were there already; 2 cases" in capsys.readouterr().out
    assert space_of(toy).load_case("new_1")[0].shape == (1, 20, 24, 18)


def test_a_full_disk_is_one_sentence_and_leaves_no_part_of_a_case(toy, capsys, monkeypatch):
    toy.add_unlabeled("new_1")

    def full_disk(*_, **kwargs):
        Path(kwargs["urlpath"]).write_bytes(b"half")
        raise RuntimeError("Error while creating the NDArray")  # what blosc2 says of it

    monkeypatch.setattr(blosc2, "asarray", full_disk)
    message = refused(capsys)
    folder = space_of(toy).unlabeled_folder
    assert f"{folder}: cannot be written (Error while creating the NDArray); free some space" in message
    assert list(folder.iterdir()) == []


def test_what_a_killed_run_left_is_removed(toy):
    toy.add_unlabeled("new_1")
    main(COMMAND)
    folder = space_of(toy).unlabeled_folder
    code = "import sys; from nnunet_kd.utilities.files import *; temporary_path(Path(sys.argv[1])).mkdir()"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    assert len(list(folder.iterdir())) == 4
    main(COMMAND)
    assert len(list(folder.iterdir())) == 3


def test_a_folder_that_cannot_be_made_is_one_sentence(toy, capsys):
    toy.add_unlabeled("new_1")
    (toy.preprocessed / "kd_unlabeled").write_text("in the way")
    assert "cannot be written (Not a directory)" in refused(capsys)


def test_a_link_to_nothing_is_named(toy, capsys):
    toy.add_unlabeled("new_1")
    (toy.raw / "imagesUn" / "gone_0000.nii.gz").symlink_to("nowhere")
    (toy.raw / "imagesTr" / "gone_too_0000.nii.gz").symlink_to("nowhere")
    assert "gone_0000.nii.gz: is a folder or a link to nothing" in refused(capsys)
    main([*COMMAND, "--skip-bad"])
    assert space_of(toy).unlabeled_cases == ["new_1"]


def test_training_and_test_cases_are_refused_by_name_and_by_content(toy, tmp_path, capsys):
    toy.add_unlabeled("new_1", "case_0")
    assert "case_0 (imagesTr/case_0_0000.nii.gz)" in refused(capsys)
    (toy.raw / "imagesUn" / "case_0_0000.nii.gz").unlink()
    shutil.copy(toy.raw / "imagesTr" / "case_1_0000.nii.gz", toy.raw / "imagesUn" / "renamed_0000.nii.gz")
    assert "renamed (imagesTr/case_1_0000.nii.gz)" in refused(capsys, "--skip-bad")
    (toy.raw / "imagesUn" / "renamed_0000.nii.gz").unlink()
    hidden = tmp_path / "hidden"
    shutil.copytree(toy.raw / "imagesUn", hidden)
    assert "new_1 (hidden/new_1_0000.nii.gz)" in refused(capsys, "--test", hidden)
    shutil.copytree(hidden, toy.raw / "imagesTs")
    assert "new_1 (imagesTs/new_1_0000.nii.gz)" in refused(capsys)
    assert space_of(toy).unlabeled_cases == []


def test_bad_images_are_listed_and_skipped_only_on_request(toy, capsys):
    toy.add_unlabeled("good")
    un = toy.raw / "imagesUn"
    (un / "broken_0000.nii.gz").write_bytes(b"not an image")
    write_image(un / "flat_0000.nii.gz", np.full((8, 8, 8), 3, np.float32))
    write_image(un / "slice_0000.nii.gz", np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32))
    nan = np.ones((8, 8, 8), np.float32)
    nan[1, 2, 3], nan[2] = np.nan, 2
    nib.save(nib.Nifti1Image(nan, np.eye(4)), un / "nan_0000.nii.gz")  # which SimpleITK reads as 0
    write_image(un / "far_0000.nii.gz", np.eye(8, dtype=np.float32)[None].repeat(8, 0), (1e6, 1e6, 1e6))
    message = refused(capsys)
    for part in (
        *("5 unlabeled images", "broken: cannot be", "flat: is constant", "slice: is a single"),
        *("nan: 1 voxels are NaN or infinite", "far: has 8 x 8 x 8 voxels of 1e+06 x 1e+06 x 1e+06 mm"),
    ):
        assert part in message
    assert space_of(toy).unlabeled_cases == ["good"]
    main([*COMMAND, "--skip-bad"])
    assert "skipped: broken" in capsys.readouterr().out

    write_image(un / "other_0001.nii.gz", np.ones((8, 8, 8), np.float32))
    write_image(un / "unnamed.nii.gz", np.ones((8, 8, 8), np.float32))
    message = refused(capsys)
    assert "other: has the channels 0001, the data set has 1" in message
    assert "unnamed.nii.gz: is not named CASE_0000.nii.gz" in message


def test_a_single_slice_is_an_image_in_2d_only():
    image = np.random.default_rng(0).normal(size=(2, 1, 4, 4)).astype(np.float32)
    assert find_fault(image, 2) is None
    assert "single slice" in str(find_fault(image, 3))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "put the images there or name a folder with -i"),
        (["-i", "nowhere"], "nowhere: no such folder"),
        (["-i", "."], "no image CASE_0000.nii.gz there"),
        (["-c", "3d"], "has no configuration '3d'"),
        (["-p", "Absent"], "Absent.json"),
        (["-np", "0"], "-np 0: expected at least 1"),
    ],
)
def test_a_users_mistake_is_one_sentence(toy, tmp_path, monkeypatch, capsys, arguments, sentence):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    message = refused(capsys, *arguments)
    assert sentence in message
    assert message.count("\n") == 1


def test_cases_preprocessed_with_other_settings_are_not_mixed(toy, capsys):
    toy.add_unlabeled("new_1")
    main(COMMAND)
    plans = (toy.preprocessed / "nnUNetPlans.json").read_text()
    (toy.preprocessed / "nnUNetPlans.json").write_text(plans.replace("ZScoreNormalization", "RescaleTo01Normalization"))
    assert "preprocessed with other settings" in refused(capsys)


def test_a_case_that_becomes_labeled_later_is_noticed(toy):
    toy.add_unlabeled("new_1")
    main(COMMAND)
    space = space_of(toy)
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        shutil.copy(space.folder / f"case_0{ending}", space.folder / f"new_1{ending}")
    with pytest.raises(Exception, match="has become a labeled case"):
        _ = space_of(toy).unlabeled_cases
