"""``nnUNetv2_kd convert NAME`` on replicas of the real layouts: cases, labels, geometry, folds, description."""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_kd.cli import main
from nnunet_kd.commands.convert import add_arguments
from nnunet_kd.dataset_conversion.Dataset112_MICCAI2012Brain import CORTEX, OUTSIDE, TISSUES, UNRELIABLE
from nnunet_kd.dataset_conversion.registry import find_datasets
from tests import replicas

ROOT = Path(__file__).resolve().parents[2]


def convert(name, raw, *options):
    """Runs the command in this process."""
    main(["convert", name, "-i", str(raw), "-np", "1", *map(str, options)])


def names(folder, what="labelsTr"):
    return sorted(f.name for f in (folder / what).iterdir()) if (folder / what).is_dir() else []


def voxels(file):
    return np.asanyarray(nib.load(file).dataobj)


def read_json(file):
    return json.loads(file.read_text())


def test_segthor_is_converted_whole(tmp_path, nnunet_raw, capsys):
    raw = replicas.segthor(tmp_path / "SegTHOR")
    convert("SegTHOR", tmp_path)  # the folder above will do
    target = nnunet_raw / "Dataset055_SegTHOR"
    assert len(names(target, "imagesTr")) == len(names(target)) == 40
    assert names(target, "imagesTs")[0] == "Patient_41_0000.nii.gz"
    assert not (target / "labelsTs").exists()
    assert not (target / "imagesUn").exists()
    for source, copy in (("Patient_07", "imagesTr/Patient_07_0000"), ("GT", "labelsTr/Patient_07")):
        original = raw / "train" / "Patient_07" / f"{source}.nii.gz"
        assert (target / f"{copy}.nii.gz").read_bytes() == original.read_bytes()

    description = read_json(target / "dataset.json")
    assert description["labels"] == {"background": 0, "esophagus": 1, "heart": 2, "trachea": 3, "aorta": 4}
    assert description["channel_names"] == {"0": "CT"}
    assert (description["numTraining"], description["file_ending"]) == (40, ".nii.gz")
    assert description["licence"].startswith("terms of the SegTHOR challenge")
    assert "Lambert" in description["citation"]
    assert description["reference"].startswith("https://competitions.codalab.org")

    folds = read_json(target / "splits_final.json")
    cases = [f"Patient_{i:02d}" for i in range(1, 41)]
    assert [sorted(f["val"]) for f in folds[:5]] == [sorted(f["val"]) for f in generate_crossval_split(cases)]
    assert [(len(f["train"]), len(f["val"])) for f in folds] == [(32, 8)] * 5 + [(35, 5)]
    assert sorted(folds[5]["train"] + folds[5]["val"]) == cases

    printed = capsys.readouterr().out
    assert "40 cases (40 of 40), 40 with labels" in printed
    assert "20 cases (20 of 20), 0 with labels" in printed
    assert "nnUNetv2_plan_and_preprocess -d 55 --verify_dataset_integrity" in printed
    assert "docs/how-to/reproduce-the-papers.md, SegTHOR" in printed


@pytest.mark.parametrize("sform_code", [0, 1, 2])
def test_acdc_takes_its_geometry_from_the_qform(tmp_path, nnunet_raw, capsys, sform_code):
    raw = replicas.acdc(tmp_path / "ACDC", train=(1, 2), test=(101,), sform_code=sform_code)
    convert("ACDC", raw, "--allow_missing")
    target = nnunet_raw / "Dataset027_ACDC"
    assert names(target) == [f"patient00{p}_frame{f:02d}.nii.gz" for p, f in ((1, 1), (1, 10), (2, 1), (2, 11))]
    assert names(target, "labelsTs") == ["patient101_frame01.nii.gz", "patient101_frame10.nii.gz"]
    wanted = replicas.affine((1.5, 1.5, 8.0))
    source = raw / "database" / "training" / "patient001" / "patient001_frame01.nii.gz"
    for file in ("imagesTr/patient001_frame01_0000.nii.gz", "labelsTr/patient001_frame01.nii.gz"):
        image = nib.load(target / file)
        np.testing.assert_allclose(image.affine, wanted, atol=1e-5)
        volume = sitk.ReadImage(str(target / file))
        assert volume.GetSpacing() == (1.5, 1.5, 8.0)
        np.testing.assert_allclose(volume.GetOrigin(), (-90, -120, -50), atol=1e-5)
    copy = target / "imagesTr" / "patient001_frame01_0000.nii.gz"
    assert np.array_equal(voxels(source), voxels(copy))
    assert nib.load(source).header.get_qform().tolist() == nib.load(copy).header.get_qform().tolist()
    printed = capsys.readouterr().out
    assert ("the sform is the identity; geometry taken from the qform (12:" in printed) == (sform_code > 0)


def test_acdc_keeps_the_frames_of_a_patient_in_one_fold(tmp_path, nnunet_raw):
    raw = replicas.acdc(tmp_path / "ACDC", train=range(1, 13), test=(), sform_code=0)
    convert("ACDC", raw, "--allow_missing")
    folds = read_json(nnunet_raw / "Dataset027_ACDC" / "splits_final.json")
    assert len(folds) == 6
    for fold in folds:
        patients = [{case[:10] for case in fold[part]} for part in ("train", "val")]
        assert not patients[0] & patients[1]
        assert len(patients[0] | patients[1]) == 12
    assert len(folds[5]["val"]) == 20  # ten patients, two frames each

    groups = (nnunet_raw / "Dataset027_ACDC" / "groups.csv").read_text().splitlines()
    assert groups[:3] == ["case,group", "patient001_frame01,patient001", "patient001_frame10,patient001"]

    convert("ACDC", raw, "--allow_missing", "--frames", "ED", "-d", "28")
    target = nnunet_raw / "Dataset028_ACDC"
    assert names(target) == [f"patient{i:03d}_frame01.nii.gz" for i in range(1, 13)]
    folds = read_json(target / "splits_final.json")
    assert (len(folds[5]["train"]), len(folds[5]["val"])) == (2, 10)


def test_noothouts_numbers_for_the_full_data_sets():
    from nnunet_kd.dataset_conversion.cases import Case

    for name, groups, numbers in (
        ("SegTHOR", 40, (35, 5)),
        ("MICCAI2012Brain", 15, (13, 2)),
        ("ACDC", 100, (90, 10)),
    ):
        cases = [Case(f"c{i:03d}", (), group=f"c{i:03d}") for i in range(groups)]
        fold = find_datasets()[name].splits(cases, {})[-1]
        assert (len(fold.train), len(fold.val)) == numbers, name
        assert "Noothout" in fold.note


def test_lits_gets_the_voxel_size_of_volumes_with_identity_affines_back(tmp_path, nnunet_raw, capsys):
    raw = replicas.lits(tmp_path / "LiTS", train=(0, 1, 28, 47, 48), test=(0,))
    convert("LiTS", raw, "--allow_missing")
    target = nnunet_raw / "Dataset029_LiTS"
    assert names(target) == [f"LiTS_{n:03d}.nii" for n in (0, 1, 28, 47, 48)]
    assert names(target, "imagesTs") == ["LiTS_test_000_0000.nii"]
    for part in ("imagesTr/LiTS_028_0000.nii", "labelsTr/LiTS_028.nii"):
        np.testing.assert_allclose(nib.load(target / part).affine, np.diag([0.7, 0.7, 2.0, 1.0]), rtol=1e-6)
    copy = target / "imagesTr" / "LiTS_028_0000.nii"
    assert np.array_equal(voxels(raw / "Training Batch 2" / "volume-28.nii"), voxels(copy))
    for n, batch in ((0, 1), (1, 1), (48, 2)):  # left alone, whatever their orientation
        source = raw / f"Training Batch {batch}" / f"volume-{n}.nii"
        assert (target / "imagesTr" / f"LiTS_{n:03d}_0000.nii").read_bytes() == source.read_bytes()
    assert read_json(target / "dataset.json")["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert (
        "voxel size taken from pixdim, axes and origin are not in the file (4: volume-28.nii" in capsys.readouterr().out
    )
    log = read_json(target / "conversion.json")["log"]
    assert sum("pixdim" in line for line in log) == 4
    assert log[0].startswith("Training Batch 2/volume-28.nii: the affine is the identity")


def test_lits_says_when_the_voxel_size_is_lost(tmp_path, nnunet_raw, capsys):
    raw = replicas.lits(tmp_path / "LiTS", train=(0, 30), test=(), pixdim=(1, 1, 1))
    convert("LiTS", raw, "--allow_missing")
    assert "the true one is not in the file, left as it is (2: volume-30.nii" in capsys.readouterr().out


def test_kits19_keeps_the_large_case_and_splits_at_210(tmp_path, nnunet_raw):
    raw = replicas.kits19(tmp_path / "kits19", numbers=(0, 15, 23, 37, 160, 209, 210, 299))
    convert("KiTS19", raw, "--allow_missing")
    target = nnunet_raw / "Dataset040_KiTS19"
    assert names(target) == [f"case_{n:05d}.nii.gz" for n in (0, 15, 23, 37, 160, 209)]
    assert names(target, "imagesTs") == ["case_00210_0000.nii.gz", "case_00299_0000.nii.gz"]
    assert nib.load(target / "imagesTr" / "case_00160_0000.nii.gz").shape == (2, 512, 796)


@pytest.mark.parametrize(
    ("name", "organ", "make"), [("LiTS", "liver", replicas.lits), ("KiTS19", "kidney", replicas.kits19)]
)
def test_regions_put_the_tumour_into_the_organ(name, organ, make, tmp_path, nnunet_raw):
    raw = make(tmp_path / name, (0, 1))
    convert(name, raw, "--allow_missing", "--allow_extra", "--regions")
    (target,) = nnunet_raw.iterdir()
    description = read_json(target / "dataset.json")
    assert description["labels"] == {"background": 0, organ: [1, 2], "tumor": 2}
    assert description["regions_class_order"] == [1, 2]
    (label, *_) = sorted((target / "labelsTr").iterdir())
    assert set(np.unique(voxels(label))) == {0, 1, 2}


def test_kits19_as_the_authors_of_nnunet_used_it(tmp_path, nnunet_raw):
    raw = replicas.kits19(tmp_path / "kits19", numbers=(0, 15, 23, 37))
    corrected = tmp_path / "corrected"
    for n in (15, 37):
        label = np.full((4, 6, 5), 2 - n % 2, np.uint8)
        replicas.write_nifti(
            corrected / f"case_{n:05d}.nii.gz", label, replicas.affine((3, 0.8, 0.8), replicas.RAS, (0, 0, 0))
        )
    convert("KiTS19", raw, "--allow_missing", "--drop_faulty", "--corrected", corrected)
    target = nnunet_raw / "Dataset040_KiTS19"
    assert names(target) == [f"case_{n:05d}.nii.gz" for n in (0, 15, 37)]
    assert set(np.unique(voxels(target / "labelsTr" / "case_00015.nii.gz"))) == {1}


def test_flare22_has_unlabeled_cases_of_several_folders(tmp_path, nnunet_raw, capsys):
    raw = replicas.flare22(tmp_path / "FLARE", labeled=3, unlabeled=(1, 2, 1001), validation=2)
    convert("FLARE22", raw, "--allow_missing")
    target = nnunet_raw / "Dataset022_FLARE22"
    assert names(target, "imagesTr") == [f"FLARE22_Tr_000{n}_0000.nii.gz" for n in (1, 2, 3)]
    assert names(target, "imagesUn") == [f"Case_{n:05d}_0000.nii.gz" for n in (1, 2, 1001)]
    assert names(target, "imagesTs") == ["FLARETs_0001_0000.nii.gz", "FLARETs_0002_0000.nii.gz"]
    labels = read_json(target / "dataset.json")["labels"]
    assert (labels["liver"], labels["right kidney"], labels["left kidney"], len(labels)) == (1, 2, 13, 14)
    assert read_json(target / "dataset.json")["numUnlabeled"] == 3
    assert "3 cases (3 of 2000), 0 with labels" in capsys.readouterr().out


def test_flare22_takes_labels_of_validation_cases_that_are_there(tmp_path, nnunet_raw):
    raw = replicas.flare22(tmp_path / "FLARE", labeled=1, unlabeled=(), validation=2)
    source = raw / "Training" / "FLARE22_LabeledCase50" / "labels" / "FLARE22_Tr_0001.nii.gz"
    (raw / "ValidationSet" / "labels").mkdir()
    (raw / "ValidationSet" / "labels" / "FLARETs_0001.nii.gz").write_bytes(source.read_bytes())
    convert("FLARE22", raw, "--allow_missing")
    assert names(nnunet_raw / "Dataset022_FLARE22", "labelsTs") == ["FLARETs_0001.nii.gz"]


def test_prostate_leaves_one_site_out(tmp_path, nnunet_raw):
    sizes = {"RUNMC": 3, "BMC": 2, "I2CVB": 2, "UCL": 2, "BIDMC": 2, "HK": 2}
    raw = replicas.prostate(tmp_path / "prostate", sizes)
    convert("ProstateMultiSite", raw, "--allow_missing")
    target = nnunet_raw / "Dataset124_ProstateMultiSite"
    assert len(names(target)) == 13
    folds = read_json(target / "splits_final.json")
    assert [{case.split("_")[0] for case in f["val"]} for f in folds] == [{site} for site in sizes]
    assert all(len(f["train"]) + len(f["val"]) == 13 for f in folds)
    label = nib.load(target / "labelsTr" / "RUNMC_Case00.nii.gz")
    source = nib.load(raw / "RUNMC" / "Case00_Segmentation.nii.gz")
    assert label.get_data_dtype() == np.uint8
    assert np.array_equal(voxels(target / "labelsTr" / "RUNMC_Case00.nii.gz"), np.asanyarray(source.dataobj) > 0)
    for key in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "qoffset_x"):
        assert label.header[key].tobytes() == source.header[key].tobytes(), key


def test_prostate_site_pairs_of_ben_loussaief(tmp_path, nnunet_raw):
    raw = replicas.prostate(tmp_path / "prostate")
    convert("ProstateMultiSite", raw, "--split", "site_pairs")
    target = nnunet_raw / "Dataset124_ProstateMultiSite"
    folds = read_json(target / "splits_final.json")
    tests = {name.removesuffix(".nii.gz") for name in names(target, "labelsTs")}
    assert len(tests) == 17  # 15 % of 116
    sites = [{case.split("_")[0] for case in f["train"]} for f in folds]
    assert sites == [set(replicas.SITE_SIZES), {"RUNMC", "BMC"}, {"I2CVB", "UCL"}, {"BIDMC", "HK"}]
    assert sorted(case for f in folds[1:] for case in f["train"]) == sorted(folds[0]["train"])
    assert not tests & {case for f in folds for part in f.values() for case in part}
    assert (len(folds[0]["train"]), len(folds[0]["val"])) == (91, 8)


def test_promise12_becomes_mha_with_the_same_geometry(tmp_path, nnunet_raw):
    raw = replicas.promise12(tmp_path / "promise", train=(0, 20), test=(0,))
    convert("PROMISE12", raw, "--allow_missing")
    target = nnunet_raw / "Dataset024_PROMISE12"
    assert names(target, "imagesTr") == ["Case00_0000.mha", "Case20_0000.mha"]
    assert names(target, "imagesTs") == ["Test_Case00_0000.mha"]
    before = sitk.ReadImage(str(raw / "TrainingData_Part2" / "Case20.mhd"))
    after = sitk.ReadImage(str(target / "imagesTr" / "Case20_0000.mha"))
    for geometry in ("GetSpacing", "GetOrigin", "GetDirection", "GetPixelID"):
        assert getattr(before, geometry)() == getattr(after, geometry)(), geometry
    assert np.array_equal(sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after))
    label = sitk.ReadImage(str(target / "labelsTr" / "Case20.mha"))
    assert label.GetOrigin() == before.GetOrigin()
    assert set(np.unique(sitk.GetArrayFromImage(label))) == {0, 1}


def test_brain_merges_sparse_ids_into_six_tissues(tmp_path, nnunet_raw):
    ids = [35, 44, 4, 59, 38, 100, 207, 47, 63, 46, 69, 2]
    raw = replicas.brain(tmp_path / "brain", train=5, test=1, ids=ids)
    convert("MICCAI2012Brain", raw, "--allow_missing")
    target = nnunet_raw / "Dataset112_MICCAI2012Brain"
    assert names(target)[0] == "1000_3.nii.gz"
    assert names(target, "labelsTs") == ["1100_3.nii.gz"]
    before = voxels(raw / "training-labels" / "1000_3_glm.nii.gz")
    label = nib.load(target / "labelsTr" / "1000_3.nii.gz")
    after = voxels(target / "labelsTr" / "1000_3.nii.gz")
    assert label.get_data_dtype() == np.uint8
    for raw_id, tissue in zip(ids, (2, 3, 4, 5, 6, 1, 1, 1, 0, 0, 0, 0), strict=True):
        assert set(after[before == raw_id]) == {tissue}, raw_id


def test_the_table_of_the_brain_has_the_challenges_134_classes_once():
    reliable = [i for ids in TISSUES.values() for i in ids] + [*OUTSIDE]
    assert len(reliable) == len(set(reliable)) == 134
    assert len(CORTEX) == 49
    assert not set(reliable) & set(UNRELIABLE)


def test_every_declaration_is_complete():
    datasets = find_datasets()
    assert len(datasets) == 8
    assert len({d.dataset_id for d in datasets.values()}) == len(datasets)
    for dataset in datasets.values():
        values = list(dataset.labels.values())
        assert values == list(range(len(values))), dataset.name
        assert next(iter(dataset.labels)) == "background"
        assert set(dataset.label_values.values()) == set(values)
        assert dataset.page.startswith("http")
        assert dataset.licence
        assert dataset.citation


def test_every_flag_of_every_data_set_is_documented():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    (subparsers,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    section = page.split("## `convert`")[1].split("\n## ")[0]
    howto = (ROOT / "docs" / "how-to" / "convert-datasets.md").read_text()
    for name, subparser in subparsers.choices.items():
        assert f"`{name}`" in section
        for flag in {o for action in subparser._actions for o in action.option_strings} - {"-h", "--help"}:
            assert f"`{flag}" in section, f"{name} {flag}"
    for dataset in find_datasets().values():
        assert f"| `{dataset.name}` | {dataset.dataset_id} |" in howto


def test_the_papers_section_of_every_data_set_is_there():
    page = (ROOT / "docs" / "how-to" / "reproduce-the-papers.md").read_text()
    for dataset in find_datasets().values():
        assert f"\n## {dataset.paper}\n" in page, dataset.name


def test_list_names_every_data_set_and_nnunets_converter(capsys):
    main(["convert", "--list"])
    printed = capsys.readouterr().out
    for name in (*find_datasets(), "folders", "nnUNetv2_convert_MSD_dataset"):
        assert name in printed


def test_help_tells_layout_page_licence_and_folds(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", "ACDC", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for words in ("--frames", "layout: training/patient001", "download page: https://", "CC BY-NC-SA", "90 + 10"):
        assert words in printed
