"""A perfect teacher's soft labels are the reference, whatever reader of images its plans and the student's name."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from nnunetv2.imageio import simpleitk_reader_writer
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from skimage import io

from nnunet_kd.config import KDConfig, Teacher
from nnunet_kd.softlabels.export import Exporter
from nnunet_kd.softlabels.geometry import choose_path
from nnunet_kd.teachers.ensemble import TeachingEnsemble
from nnunet_kd.teachers.fitness import check_same_input, check_teacher
from nnunet_kd.teachers.model import TeacherModel
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError
from tests.unit.test_plan_command import DATASET, DATASET_JSON, write_json
from tests.unit.toy_dataset import plans_of

MEDICAL = ["SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"]
OTHERS = {"NaturalImage2DIO": ".png", "Tiff3DIO": ".tif"}
IMAGE, LABELS = "case_0000", "case"
SHAPE = (12, 9, 10)  # x, y, z of the file


def segmentation() -> np.ndarray:
    """Labels (x, y, z) that no rotation and no flip leaves as they are."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:6, 1:4, 2:8] = 1
    labels[5:8, 3:8, 6:9] = 2
    labels[0, 0, 0] = 1
    return labels


def affine(axes: str, oblique: bool) -> np.ndarray:
    """Voxels of 1 mm whose axes point as ``axes`` says, turned by some 20 degrees about two axes where oblique."""
    matrix = inv_ornt_aff(axcodes2ornt(axes), SHAPE)
    matrix[:3, 3] = 5, -7, 11
    if oblique:
        c, s = np.cos(0.35), np.sin(0.35)
        turned = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        matrix[:3, :3] = turned @ matrix[:3, :3]
    return matrix


GEOMETRIES = {"LPS": affine("LPS", False), "oblique PIR": affine("PIR", True)}


def raw(root: Path, ending: str, matrix: np.ndarray | None = None) -> Path:
    """Image and labels; the image is 100 times the label, so that a threshold is a perfect teacher."""
    for name, scale in ((f"imagesTr/{IMAGE}", 100), (f"labelsTr/{LABELS}", 1)):
        voxels, file = segmentation() * np.uint8(scale), root / f"{name}{ending}"
        file.parent.mkdir()
        if ending == ".nii.gz":
            nib.save(nib.Nifti1Image(voxels, matrix), file)
        elif ending == ".png":
            io.imsave(file, voxels[..., 7].T, check_contrast=False)
        else:
            tifffile.imwrite(file, voxels.T)
    return root


def plans(reader: str, transpose_forward: Sequence[int] = (0, 1, 2), **changes: Any) -> dict:
    result = plans_of(name="P") | {"image_reader_writer": reader, "transpose_forward": list(transpose_forward)}
    result["transpose_backward"] = np.argsort(transpose_forward).tolist()
    for name, configuration in result["configurations"].items():
        configuration |= {"spacing": [1.0] * (2 if name == "2d" else 3), "normalization_schemes": ["NoNormalization"]}
        configuration |= changes
    return result


def student(root: Path, reader: str, configuration: str) -> StudentSpace:
    """A student with its preprocessed case; the raw files lie in ``root`` already."""
    image, labels = (next((root / name).iterdir()) for name in ("imagesTr", "labelsTr"))
    dataset_json = DATASET_JSON | {"file_ending": "".join(image.suffixes)}
    space = StudentSpace(PlansManager(plans(reader)), configuration, dataset_json, root / DATASET, root)
    space.folder.mkdir(parents=True)
    DefaultPreprocessor(verbose=False).run_case_save(
        str(space.folder / "case"),
        [str(image)],
        str(labels),
        space.plans_manager,
        space.configuration_manager,
        dataset_json,
    )
    return space


def bare(root: Path, reader: str, **dataset: Any) -> StudentSpace:
    """A student without any case; ``dataset`` changes its ``dataset.json``."""
    return StudentSpace(PlansManager(plans(reader)), "3d_fullres", DATASET_JSON | dataset, root / DATASET, None)


def ensemble_of(
    space: StudentSpace, reader: str, configuration: str, transpose_forward: Sequence[int] = (0, 1, 2), **changes: Any
) -> TeachingEnsemble:
    """One teacher without a network; see :class:`Perfect`."""
    folder = space.preprocessed.with_name("results") / f"T__{reader}__{configuration}"
    write_json(folder / "plans.json", plans(reader, transpose_forward, **changes))
    write_json(folder / "dataset.json", space.dataset_json)
    (folder / "fold_0").mkdir()
    (folder / "fold_0" / "checkpoint_final.pth").touch()
    return TeachingEnsemble.resolve(KDConfig(teachers=(Teacher(str(folder)),)), space, folder.parent, None)


class Perfect(Exporter):
    """Its teachers see labels in intensities."""

    def _predict_logits(self, model, fold, data):
        return -(data - 100.0 * torch.arange(3).reshape(-1, 1, 1, 1)).abs()


def dice(ensemble: TeachingEnsemble) -> float:
    """Of the soft labels' argmax and the reference in the student's grid, both foreground labels together."""
    exporter = Perfect(ensemble, torch.device("cpu"))
    case, inputs = exporter._load("case")
    probabilities = exporter.predict(case, inputs)
    reference = np.asarray(case.reference[0])
    assert probabilities.shape == (3, *reference.shape)
    predicted = probabilities.argmax(0)
    assert (reference > 0).any()
    return 2 * ((predicted == reference) & (reference > 0)).sum() / ((predicted > 0).sum() + (reference > 0).sum())


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("mine", MEDICAL)
def test_a_perfect_teacher_teaches_the_reference_with_every_reader_on_every_path(tmp_path, mine, geometry):
    space = student(raw(tmp_path, ".nii.gz", GEOMETRIES[geometry]), mine, "3d_fullres")
    for theirs in MEDICAL:
        for configuration, transposed in (("3d_fullres", [0, 1, 2]), ("2d", [1, 2, 0])):
            ensemble = ensemble_of(space, theirs, configuration, transposed, use_mask_for_norm=[True])
            assert choose_path(space, ensemble.models[0]) == expected_path(mine, theirs, configuration)
            assert dice(ensemble) == 1, (theirs, configuration)


def test_readers_that_take_different_affines_from_one_header_agree_about_its_voxels(tmp_path):
    """nibabel takes the sform of this header, SimpleITK the qform."""
    raw(tmp_path, ".nii.gz", GEOMETRIES["LPS"])
    for file in tmp_path.glob("*/*.nii.gz"):
        image = nib.load(file)
        image.set_sform(affine("PIR", False), 4)
        image.set_qform(affine("LPS", False), 1)
        image.to_filename(file)
    readers = [recursive_find_reader_writer_by_name(r)() for r in ("SimpleITKIOWithReorient", "NibabelIOWithReorient")]
    mine, theirs = (r.read_images([str(tmp_path / "imagesTr" / f"{IMAGE}.nii.gz")])[0] for r in readers)
    assert mine.shape != theirs.shape, "the two affines are different"
    space = student(tmp_path, "SimpleITKIOWithReorient", "3d_fullres")
    for reader in MEDICAL:
        assert dice(ensemble_of(space, reader, "2d")) == 1, reader


def expected_path(mine: str, theirs: str, configuration: str) -> str:
    turned = mine != theirs and any("Reorient" in r for r in (mine, theirs))
    return "original" if turned or configuration == "2d" else "resampled"


@pytest.mark.parametrize(("reader", "ending"), OTHERS.items())
def test_images_without_a_position_in_space_are_taught_by_a_teacher_of_the_same_reader(tmp_path, reader, ending):
    space = student(raw(tmp_path, ending), reader, "2d" if ending == ".png" else "3d_fullres")
    assert dice(ensemble_of(space, reader, "2d", use_mask_for_norm=[True])) == 1


@pytest.mark.parametrize("theirs", ["NaturalImage2DIO", "Tiff3DIO", "SomebodysIO"])
def test_readers_whose_axes_have_nothing_in_common_are_refused_in_one_sentence(tmp_path, monkeypatch, theirs):
    somebodys = type("SomebodysIO", (simpleitk_reader_writer.SimpleITKIO,), {})
    monkeypatch.setattr(simpleitk_reader_writer, "SomebodysIO", somebodys, raising=False)
    space = bare(tmp_path, "NibabelIO")
    with pytest.raises(UserError, match=f"read with {theirs}, the student reads them with NibabelIO.*plan both"):
        ensemble_of(space, theirs, "3d_fullres")


@pytest.mark.parametrize("mine", MEDICAL)
def test_probability_maps_are_turned_from_the_reader_that_their_plans_name(tmp_path, mine):
    space = student(raw(tmp_path, ".nii.gz", GEOMETRIES["oblique PIR"]), mine, "3d_fullres")
    for theirs in MEDICAL:
        labels = str(tmp_path / "labelsTr" / f"{LABELS}.nii.gz")
        segmentation = recursive_find_reader_writer_by_name(theirs)().read_seg(labels)[0][0]
        maps = tmp_path / theirs
        maps.mkdir()
        np.savez(maps / "case.npz", probabilities=np.stack([segmentation == c for c in range(3)]).astype(np.float32))
        write_json(maps / "plans.json", plans(theirs))
        assert dice(ensemble_of_maps(space, maps)) == 1, theirs
    (tmp_path / mine / "plans.json").unlink()  # then the axes are the student's
    assert dice(ensemble_of_maps(space, tmp_path / mine)) == 1
    write_json(tmp_path / mine / "plans.json", plans("Tiff3DIO"))
    with pytest.raises(UserError, match=f"from_folder.*read with Tiff3DIO, the student reads them with {mine}"):
        ensemble_of_maps(space, tmp_path / mine)


def test_probability_maps_are_of_the_labels_that_the_file_beside_them_names(tmp_path):
    space, maps = bare(tmp_path, "SimpleITKIO"), tmp_path / "maps"
    write_json(maps / "dataset.json", space.dataset_json)
    assert ensemble_of_maps(space, maps).maps == maps
    ignoring = {**space.dataset_json["labels"], "ignore": 3}
    write_json(maps / "dataset.json", space.dataset_json | {"labels": ignoring})
    assert ensemble_of_maps(space, maps).maps == maps, "the ignore label is no output"
    swapped = {"background": 0, "a": 2, "b": 1}
    assert set(swapped) == set(space.dataset_json["labels"])
    write_json(maps / "dataset.json", space.dataset_json | {"labels": swapped})
    with pytest.raises(UserError, match=r"from_folder .*maps: predicts the labels .*same labels in the same order"):
        ensemble_of_maps(space, maps)


def ensemble_of_maps(space: StudentSpace, maps: Path) -> TeachingEnsemble:
    kd = KDConfig.from_plans({"kd": {"ensemble": {"from_folder": str(maps)}}})
    return TeachingEnsemble.resolve(kd, space, space.preprocessed, None)


def test_soft_labels_that_older_versions_did_not_turn_are_not_taken_for_these(tmp_path):
    space = bare(tmp_path, "SimpleITKIO")
    same, turned = (
        ensemble_of(space, reader, "3d_fullres").identity["teachers"][0]
        for reader in ("NibabelIO", "NibabelIOWithReorient")
    )
    assert "image_reader_writer" not in same
    assert turned["image_reader_writer"] == "NibabelIOWithReorient"


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_a_raw_image_that_is_not_the_preprocessed_one_is_noticed(tmp_path, configuration):
    space = student(raw(tmp_path, ".nii.gz", GEOMETRIES["LPS"]), "SimpleITKIO", "3d_fullres")
    image = nib.Nifti1Image(segmentation()[1:], GEOMETRIES["LPS"])
    nib.save(image, tmp_path / "imagesTr" / f"{IMAGE}.nii.gz")
    with pytest.raises(UserError, match=r"case case: .*(preprocess the data set again|has shape)"):
        dice(ensemble_of(space, "SimpleITKIO", configuration, use_mask_for_norm=[True]))


def test_a_raw_image_that_cannot_be_used_stops_the_export_with_its_name(tmp_path):
    space = student(raw(tmp_path, ".nii.gz", GEOMETRIES["LPS"]), "SimpleITKIO", "3d_fullres")
    image = np.ones(SHAPE, np.float32)
    image[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "imagesTr" / f"{IMAGE}.nii.gz")
    for theirs in ("SimpleITKIO", "NibabelIO"):
        with pytest.raises(UserError, match=r"case_0000\.nii\.gz: 1 voxels are NaN or infinite"):
            dice(ensemble_of(space, theirs, "2d"))


@pytest.mark.parametrize(
    ("mine", "theirs", "sentence"),
    [
        ({"0": "CT", "1": "PET"}, {"0": "PET", "1": "CT"}, "channels PET, CT, the student's data set has CT, PET"),
        ({"0": "CT"}, {"0": "CT", "1": "PET"}, "channels CT, PET, the student's data set has CT"),
        ({"0": "CT"}, {"0": "T1"}, "channels T1, the student's data set has CT"),
        ({"0": "CT", "1": "PET"}, {"1": "pet", "0": "ct"}, None),
        ({"0": "CT", "1": "PET"}, {"first": "CT", "second": "PET"}, None),
        ({str(i): str(i) for i in range(11)}, {str(i): str(i) for i in reversed(range(11))}, None),
    ],
)
def test_teachers_take_the_students_channels_in_the_students_order(tmp_path, mine, theirs, sentence):
    space = bare(tmp_path, "SimpleITKIO", channel_names=mine)
    model = ensemble_of(space, "SimpleITKIO", "3d_fullres").models[0]
    write_json(model.folder / "dataset.json", space.dataset_json | {"channel_names": theirs})
    model = TeacherModel(model.folder, "3d_fullres", (0,))
    with nullcontext() if sentence is None else pytest.raises(UserError, match=sentence):
        check_teacher(space, model)


def test_regions_are_the_same_in_the_same_order_only(tmp_path):
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    space = bare(tmp_path, "SimpleITKIO", labels=regions, regions_class_order=[1, 2])
    model = ensemble_of(space, "SimpleITKIO", "3d_fullres").models[0]
    other = {"background": 0, "core": 2, "whole": [1, 2]}
    write_json(model.folder / "dataset.json", space.dataset_json | {"labels": other})
    with pytest.raises(UserError, match="same labels in the same order"):
        check_teacher(space, TeacherModel(model.folder, "3d_fullres", (0,)))


def test_a_teacher_in_memory_must_read_as_the_student_does(tmp_path):
    space = bare(tmp_path, "SimpleITKIO")
    model = ensemble_of(space, "NibabelIOWithReorient", "3d_fullres").models[0]
    with pytest.raises(UserError, match=r"\(image_reader_writer\).*cannot run on the student's patches"):
        check_same_input(space, model)
