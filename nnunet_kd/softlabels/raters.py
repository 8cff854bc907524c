"""Masks of several raters -> probability maps: which share of the raters gave a voxel each label."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from tqdm import tqdm

from nnunet_kd.data.read_images import ImageError, read_labels
from nnunet_kd.teachers.ensemble import digest
from nnunet_kd.teachers.fitness import reader_of
from nnunet_kd.teachers.student_data import CaseSpace, StudentSpace
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import file_sha256, write_json, write_whole, writing

SAME_MM = 1e-2  # origins that differ by less are the same


def average_raters(student: StudentSpace, raters: Sequence[Path], cases: Sequence[str]) -> Path:
    """Writes the mean of the raters' masks as ``CASE.npz`` maps, as nnU-Net writes probabilities.

    A case need not have a mask of every rater; the mean is over those who have drawn one.

    Args:
        student: the student's data.
        raters: one folder of masks for each rater, named as in ``labelsTr``.
        cases: names of the cases that need a map.

    Returns:
        The folder of the maps below ``nnUNet_preprocessed``. Other masks or labels get another folder.

    Raises:
        UserError: for a case without any mask, a folder without masks of the cases, and masks that do not fit.
    """
    masks = _find_masks(raters, cases, student.dataset_json["file_ending"])
    made_of = {
        "labels": student.dataset_json["labels"],
        "reader": reader_of(student.plans_manager),
        "masks": {case: sorted(map(file_sha256, files)) for case, files in masks.items()},
    }
    folder = student.preprocessed / "kd_raters" / digest(made_of)[:10]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "raters.json", {case: list(map(str, files)) for case, files in masks.items()})
    for case, files in tqdm(masks.items(), desc="mean of raters", unit="case"):
        if not (target := folder / f"{case}.npz").is_file():
            write_whole(target, partial(_save, probabilities=_mean_of_files(student, case, files)))
    fewer = sum(len(files) < len(raters) for files in masks.values())
    print(
        f"masks of {len(raters)} raters, {len(masks)} cases, {fewer} of them with masks of some raters only: {folder}"
    )
    return folder


def mean_of_masks(masks: Sequence[np.ndarray], labels: LabelManager) -> np.ndarray:
    """Share of the raters (C, z, y, x), float32, who gave a voxel each label or put it into each region.

    A rater who gave a voxel the ignore label does not count there.

    Args:
        masks: (z, y, x) of one case.
        labels: the data set's labels or regions.

    Raises:
        ImageError: for voxels that every rater ignored, of which nobody knows anything.
    """
    counted = sum((mask != labels.ignore_label).astype(np.float32) for mask in masks)  # (z, y, x)
    if unknown := int((counted == 0).sum()):
        raise ImageError(f"{unknown} voxels have the ignore label of every rater; one at least must give them a label")
    heads = labels.foreground_regions if labels.has_regions else labels.all_labels
    votes = (sum(region_or_label_to_mask(mask, head).astype(np.float32) for mask in masks) for head in heads)
    return np.stack([vote / counted for vote in votes])


def _find_masks(raters: Sequence[Path], cases: Sequence[str], ending: str) -> dict[str, list[Path]]:
    """Files of every case, of at least one rater."""
    if len({folder.resolve() for folder in raters}) < max(2, len(raters)):
        raise UserError("--raters: expected two or more folders, each named once.")
    masks = {case: [f for folder in raters if (f := folder / f"{case}{ending}").is_file()] for case in cases}
    drawn = {file.parent for files in masks.values() for file in files}
    if empty := [folder for folder in raters if folder not in drawn]:
        raise UserError(f"--raters {empty[0]}: has no mask of any case, such as {cases[0]}{ending}.")
    if bare := [case for case, files in masks.items() if not files]:
        raise UserError(
            f"--raters: no rater has a mask of case {bare[0]} ({len(bare)} of {len(cases)} cases lack one)."
        )
    return masks


def _mean_of_files(student: StudentSpace, case: str, files: Sequence[Path]) -> np.ndarray:
    image = CaseSpace.load(student, case)
    try:
        return mean_of_masks([_read_mask(student, image, file) for file in files], student.label_manager)
    except ImageError as err:
        raise UserError(f"case {case}: {err}.") from err


def _read_mask(student: StudentSpace, image: CaseSpace, file: Path) -> np.ndarray:
    """A mask (z, y, x) that fits to its image and the data set's labels."""
    plans = student.plans_manager
    try:
        mask, properties = read_labels(plans.image_reader_writer_class(), file)
        _check_geometry(mask.shape[1:], properties, image.properties, plans.transpose_backward)
        _check_labels(mask, student.label_manager)
    except ImageError as err:
        raise UserError(f"{file}: {err}.") from err
    return mask[0]


def _check_geometry(
    shape: Sequence[int], properties: Mapping[str, Any], of_image: Mapping[str, Any], order: Sequence[int]
) -> None:
    """Refuses a mask of another shape or place than the image; ``order`` are the image's axes in its reader's order."""
    expected = tuple(int(of_image["shape_before_cropping"][i]) for i in order)
    if tuple(shape) != expected:
        raise ImageError(f"has shape {list(shape)}, its image {list(expected)}")
    here, there = _place(properties), _place(of_image)
    for key in here.keys() & there.keys():
        if len(here[key]) != len(there[key]) or not np.allclose(here[key], there[key], rtol=1e-3, atol=SAME_MM):
            raise ImageError(f"lies elsewhere than its image ({key} {list(here[key])} against {list(there[key])})")


def _place(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Spacing, and with SimpleITK origin and direction, as nnU-Net's readers note them."""
    return {"spacing": properties["spacing"], **properties.get("sitk_stuff", {})}


def _check_labels(mask: np.ndarray, labels: LabelManager) -> None:
    known = [*labels.all_labels, *([labels.ignore_label] if labels.has_ignore_label else [])]
    if unknown := sorted(set(np.unique(mask).tolist()) - set(map(int, known))):
        raise ImageError(f"holds {unknown[0]:g}, the labels are {', '.join(map(str, known))}")


def _save(file: Path, probabilities: np.ndarray) -> None:
    np.savez_compressed(file, probabilities=probabilities)
