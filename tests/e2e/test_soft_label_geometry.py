"""Argmax of the stored soft labels is what nnU-Net's own commands predict with the same teachers."""

import json
import pickle
import shutil

import numpy as np
import pytest

from nnunet_kd.config import KDConfig, Teacher
from nnunet_kd.softlabels.encoding import decode
from nnunet_kd.softlabels.geometry import choose_path
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.softlabels.stores import store_folder
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.student_data import load_student
from tests.e2e.conftest import SMALL, read_segmentation

MINIMUM = {"direct": 0.999, "resampled": 0.98, "original": 0.98}


def nnunet_prediction(workspace, teachers, which, combine, cases, output):
    """Segments training images with nnUNetv2_predict, and with nnUNetv2_ensemble where probabilities are averaged."""
    images = output.with_name("images")
    images.mkdir()
    for case in cases:
        (images / f"{case}_0000.nii.gz").symlink_to(workspace.raw / "imagesTr" / f"{case}_0000.nii.gz")
    configuration = which.removesuffix("_mixed")
    parts = []
    members = [("3d_fullres", "0"), ("3d_fullres", "1")] if which == "3d_fullres" else [(configuration, "0")]
    members += [("3d_fullres", "0")] if which.endswith("_mixed") else []

    def predict(configuration, folds, folder, *options):
        trainer, plans, _ = teachers[configuration].split("__")
        workspace.run(
            "nnUNetv2_predict", "-d", "4", "-i", images, "-o", folder, "-f", *folds, "-c", configuration, "-tr",
            trainer, "-p", plans, "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_progress_bar", *options,
        )  # fmt: skip

    if combine == "logits" or len(members) == 1:
        predict(configuration, [f for _, f in members], output)
        return
    for i, (c, fold) in enumerate(members):
        parts.append(output.with_name(f"{output.name}_{i}"))
        predict(c, [fold], parts[-1], "--save_probabilities")
    workspace.run("nnUNetv2_ensemble", "-i", *parts, "-o", output, "-np", "1")


def to_student_grid(space, case, segmentation):
    """nnU-Net's segmentation of the original image, cropped to the student's grid (same spacing in this data set)."""
    properties = pickle.loads((space.folder / f"{case}.pkl").read_bytes())
    return segmentation[tuple(slice(*b) for b in properties["bbox_used_for_cropping"])]


@pytest.mark.parametrize(
    ("which", "combine", "path"),
    [
        ("3d_fullres", "logits", "direct"),
        ("3d_fullres", "probabilities", "direct"),
        ("3d_lowres", "probabilities", "resampled"),
        ("2d", "probabilities", "original"),
        ("2d_mixed", "probabilities", "original"),
    ],
)
def test_stored_argmax_is_nnunets_prediction(workspace, teachers, tmp_path, which, combine, path, record_property):
    configuration = which.removesuffix("_mixed")
    specifications = [teachers[configuration]] + ([teachers["3d_fullres"] + ":0"] if which.endswith("_mixed") else [])
    name = f"Geometry_{which}_{combine}"
    workspace.plan(
        name, "-c", "3d_fullres", "--student", SMALL, "--teachers", *specifications,
        f"ensemble.combine={combine}", f"ensemble.name={name}",
    )  # fmt: skip
    export = ["nnUNetv2_kd", "softlabels", "-d", "4", "-c", "3d_fullres", "-p", name, "-device", "cpu"]
    workspace.run(*export, "--num_parts", "2")
    kd, space = load_student(workspace.preprocessed / f"{name}.json", "3d_fullres", workspace.raw)
    ensemble = TeachingEnsemble.resolve(kd, space, workspace.results, None)
    assert choose_path(space, ensemble.models[0]) == path
    store = SoftLabelStore.open(store_folder(ensemble))

    cases = store.cases()
    assert len(cases) == 4
    nnunet_prediction(workspace, teachers, which, combine, cases, tmp_path / "prediction")
    same = voxels = foreground = 0
    margin = 0.0
    for case in cases:
        probabilities = decode(store.read(case)[:], regions=False)
        stored = probabilities.argmax(0)
        predicted = to_student_grid(space, case, read_segmentation(tmp_path / "prediction" / f"{case}.nii.gz"))
        assert stored.shape == predicted.shape
        same += int((stored == predicted).sum())
        second, first = np.sort(probabilities, axis=0)[-2:]
        margin = max(margin, (first - second)[stored != predicted].max(initial=0))
        voxels += stored.size
        foreground += int((predicted > 0).sum())
    record_property("agreement", same / voxels)
    print(f"{which}, {combine}, {path}: {same / voxels:.5f} of {voxels} voxels agree, {foreground} are foreground")
    if path == "direct":
        assert margin < 3 / 255, "voxels may differ only where two classes are closer than the store's rounding"
    assert foreground > 0.005 * voxels, "the teachers predict nothing, agreement would prove nothing"
    assert same / voxels >= MINIMUM[path]


def test_probability_maps_from_elsewhere_become_the_same_soft_labels(workspace, teachers, tmp_path):
    trainer, plans, configuration = teachers["3d_fullres"].split("__")
    workspace.run(
        "nnUNetv2_predict", "-d", "4", "-i", workspace.raw / "imagesTr", "-o", tmp_path / "maps", "-f", "0", "-c",
        configuration, "-tr", trainer, "-p", plans, "-device", "cpu", "-npp", "0", "-nps", "0", "--save_probabilities",
    )  # fmt: skip
    stores = []
    for name, options in (("Imported", []), ("Exported", ["--teachers", teachers["3d_fullres"] + ":0"])):
        workspace.plan(name, "-c", "3d_fullres", *options, f"ensemble.name={name}")
        extra = ["--from", tmp_path / "maps"] if name == "Imported" else []
        workspace.run("nnUNetv2_kd", "softlabels", "-d", "4", "-c", "3d_fullres", "-p", name, "-device", "cpu", *extra)
        kd, space = load_student(workspace.preprocessed / f"{name}.json", "3d_fullres", workspace.raw)
        stores.append(SoftLabelStore.open(store_folder(TeachingEnsemble.resolve(kd, space, workspace.results, None))))
    case = stores[0].cases()[0]
    assert stores[0].cases() == stores[1].cases()
    difference = np.abs(stores[0].read(case)[:].astype(int) - stores[1].read(case)[:].astype(int))
    assert difference.max() <= 2


def test_a_store_resumes_shards_and_verifies(workspace, teachers):
    name = "Shards"
    workspace.plan(name, "-c", "3d_fullres", "--teachers", teachers["3d_fullres"] + ":0", f"ensemble.name={name}")
    export = ["nnUNetv2_kd", "softlabels", "-d", "4", "-c", "3d_fullres", "-p", name, "-device", "cpu"]
    assert "4 cases written" in workspace.run(*export, "--num_parts", "2", "--part_id", "1")
    assert "missing" in workspace.run(*export, "--verify", code=2)
    assert "4 cases written" in workspace.run(*export)
    printed = workspace.run(*export)
    assert "0 cases written" in printed
    assert "8 were there already" in printed
    assert "8 cases are whole" in workspace.run(*export, "--verify")
    assert "part_id" in workspace.run(*export, "--num_parts", "2", "--part_id", "2", code=2)


def test_membership_decides_which_teachers_teach_a_case(workspace, teachers):
    workspace.plan("Members", "-c", "3d_fullres", "--teachers", teachers["3d_fullres"])
    kd, space = load_student(workspace.preprocessed / "Members.json", "3d_fullres", workspace.raw)
    splits = json.loads((workspace.preprocessed / "splits_final.json").read_text())

    def folds(membership, case, fold=None):
        block = KDConfig.from_plans(
            {"kd": {"ensemble": {"membership": membership}, "teachers": [{"folder": teachers["3d_fullres"]}]}}
        )
        ensemble = TeachingEnsemble.resolve(block, space, workspace.results, fold)
        return [f for m in ensemble.models_for(case) for f in m.folds]

    assert kd.teachers == (Teacher(teachers["3d_fullres"]),)
    assert folds("all", splits[0]["val"][0]) == [0, 1]
    assert folds("out_of_fold", splits[0]["val"][0]) == [0]
    assert folds("out_of_fold", splits[1]["val"][0]) == [1]
    assert folds("same_fold", splits[0]["train"][0], fold=1) == [1]


def test_missing_and_unfit_teachers_are_one_sentence(workspace, teachers):
    workspace.plan("Bad", "-c", "3d_fullres", "--teachers", teachers["3d_fullres"])
    file = workspace.preprocessed / "Bad.json"
    export = ["nnUNetv2_kd", "softlabels", "-d", "4", "-c", "3d_fullres", "-p", "Bad", "-device", "cpu"]

    def refused(teacher):
        plans = json.loads(file.read_text())
        plans["kd"]["teachers"] = [teacher]
        file.write_text(json.dumps(plans))
        printed = workspace.run(*export, code=2)
        assert "Traceback" not in printed
        return printed

    assert "nnUNetv2_train" in refused({"folder": "nnUNetTrainer__nnUNetPlans__3d_fullres"})
    assert "fold_3" in refused({"folder": teachers["3d_fullres"], "folds": [3]})
    other = workspace.results / "nnUNetTrainer__Other__3d_fullres"
    shutil.copytree(workspace.results / teachers["3d_fullres"], other)
    dataset_json = json.loads((other / "dataset.json").read_text())
    dataset_json["labels"] = {"background": 0, "posterior": 1, "anterior": 2}
    (other / "dataset.json").write_text(json.dumps(dataset_json))
    assert "labels" in refused({"folder": other.name})
    (other / "fold_0" / "checkpoint_final.pth").write_bytes(b"nonsense")
    shutil.copy(workspace.results / teachers["3d_fullres"] / "dataset.json", other / "dataset.json")
    assert "not a readable nnU-Net checkpoint" in refused({"folder": other.name, "folds": [0]})
    shutil.rmtree(other)
