"""Raw nnU-Net data sets from the images of the public data sets that the results are about.

``FOLDER/NAME/images/CASE_0000.nii.gz`` and ``FOLDER/NAME/labels/CASE.nii.gz``.
"""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SEED = 2022
SUNNYBROOK_GROUPS = ("SC-HF-I", "SC-HF-NI", "SC-HYP")
ACDC_GROUP = 20  # patients of one pathology have consecutive numbers
ACDC_TWICE = "patient076"  # has the images of patient074, voxel by voxel, under other labels


def hippocampus_cases(source: Path) -> dict[str, list[str]]:
    """40 test cases, 160 labeled ones: 4 to watch the training; where labels are few, the first 20 keep theirs."""
    cases = sorted(f.name.removesuffix(".nii.gz") for f in (source / "hippocampus" / "labels").glob("*.nii.gz"))
    random.Random(SEED).shuffle(cases)
    test, labeled = cases[:40], cases[40:]
    return {"test": test, "train": labeled[4:], "val": labeled[:4], "few": labeled[:20], "unlabeled": labeled[20:]}


def sunnybrook_patients(source: Path) -> dict[str, list[str]]:
    """Of three pathology groups five patients for training, one for validation, two for testing; healthy ones: test.

    Where labels are few, two patients of each group keep theirs.
    """
    patients = sorted({f.name.split("_")[0] for f in (source / "sunnybrook" / "labels").glob("*.nii.gz")})
    result: dict[str, list[str]] = {"test": [], "val": [], "few": [], "train": [], "unlabeled": []}
    shuffle = random.Random(SEED).shuffle
    for group in SUNNYBROOK_GROUPS:
        members = [p for p in patients if p.rpartition("-")[0] == group]
        shuffle(members)
        result[group] = members[:5]
        result["train"] += members[:5]
        result["val"] += members[5:6]
        result["test"] += members[6:]
        result["few"] += members[:2]
        result["unlabeled"] += members[2:6]
    result["healthy"] = [p for p in patients if p.rpartition("-")[0] == "SC-N"]
    result["test"] += result["healthy"]
    return result


def acdc_patients(source: Path) -> dict[str, list[str]]:
    """Of each of five pathologies four test patients and one for validation (two of the largest); the rest trains.

    Where labels are few, seven training patients keep theirs: one of each pathology, two of the two largest.
    """
    patients = sorted({f.name.split("_")[0] for f in (source / "acdc" / "labels").glob("*.nii.gz")} - {ACDC_TWICE})
    groups: dict[int, list[str]] = {}
    for patient in patients:
        groups.setdefault((int(patient.removeprefix("patient")) - 1) // ACDC_GROUP, []).append(patient)
    largest = sorted(groups, key=lambda g: -len(groups[g]))
    result: dict[str, list[str]] = {"test": [], "val": [], "train": [], "few": [], "unlabeled": []}
    shuffle = random.Random(SEED).shuffle
    for group, members in groups.items():
        shuffle(members)
        first = 4 + (2 if group == largest[0] else 1)
        labeled = first + (2 if group in largest[:2] else 1)
        result["test"] += members[:4]
        result["val"] += members[4:first]
        result["train"] += members[first:]
        result["few"] += members[first:labeled]
        result["unlabeled"] += members[labeled:]
    return result


def stacks(source: Path, patients: Sequence[str]) -> list[str]:
    """End-diastole and end-systole of each patient; ``source`` is the data set's folder."""
    names = sorted(f.name.removesuffix(".nii.gz") for f in (source / "labels").glob("*.nii.gz"))
    return [n for n in names if n.split("_")[0] in patients]


def groups(name: str, source: Path) -> dict[str, list[str]]:
    """Cases of each group of a public data set, in the folder ``source / name``."""
    if name == "hippocampus":
        return hippocampus_cases(source)
    patients = {"sunnybrook": sunnybrook_patients, "acdc": acdc_patients}[name](source)
    return {group: stacks(source / name, members) for group, members in patients.items()}


def write_dataset(
    source: Path,
    target: Path,
    labels: dict[str, int],
    train: Sequence[str],
    test: Sequence[str],
    unlabeled: Sequence[str] = (),
) -> None:
    """A raw data set with training, test and, if there are any, unlabeled (``imagesUn``) images."""
    for part, cases, labeled in (("Tr", train, True), ("Ts", test, True), ("Un", unlabeled, False)):
        for case in cases:
            _copy(source / "images" / f"{case}_0000.nii.gz", target / f"images{part}")
            if labeled:
                _copy(source / "labels" / f"{case}.nii.gz", target / f"labels{part}")
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0} | labels,
        "numTraining": len(train),
        "file_ending": ".nii.gz",
    }
    (target / "dataset.json").write_text(json.dumps(content, indent=4))


def write_splits(file: Path, splits: Sequence[tuple[Sequence[str], Sequence[str]]]) -> None:
    """nnU-Net's ``splits_final.json`` from training and validation cases of each fold."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([{"train": list(t), "val": list(v)} for t, v in splits], indent=4))


def write_wide(raw: Path, factor: int, number: int) -> None:
    """``imagesWide``, ``labelsWide``: the first test cases in a field of view ``factor`` times as long on every axis.

    What surrounds the image is noise with the mean and a quarter of the standard deviation of its first and last slice.
    """
    rng = np.random.default_rng(SEED)
    for file in sorted((raw / "imagesTs").iterdir())[:number]:
        image, case = sitk.ReadImage(str(file)), file.name.removesuffix("_0000.nii.gz")
        array = sitk.GetArrayFromImage(image).astype(np.float32)
        ends = array[[0, -1]]
        around = rng.normal(ends.mean(), ends.std() / 4, [factor * s for s in array.shape])
        _write_inside(array, around.clip(array.min(), array.max()), image, raw / "imagesWide" / file.name)
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "labelsTs" / f"{case}.nii.gz")))
        nothing = np.zeros_like(around, dtype=label.dtype)
        _write_inside(label, nothing, image, raw / "labelsWide" / f"{case}.nii.gz")


def wide_field_of_view(raw: Path, preprocessed: Path) -> None:
    """What the study of coarse-to-fine prediction needs: a configuration of half the resolution, and wide images."""
    add_lowres(preprocessed / "nnUNetPlans.json", (2, 2, 2), (24, 32, 24))
    write_wide(raw, 3, 16)


def _write_inside(inner: np.ndarray, outer: np.ndarray, like: sitk.Image, file: Path) -> None:
    begin = [(o - i) // 2 for o, i in zip(outer.shape, inner.shape, strict=True)]
    outer[tuple(slice(b, b + i) for b, i in zip(begin, inner.shape, strict=True))] = inner
    result = sitk.GetImageFromArray(outer.astype(inner.dtype))
    result.SetSpacing(like.GetSpacing())
    file.parent.mkdir(exist_ok=True)
    sitk.WriteImage(result, str(file))


def add_lowres(plans_file: Path, spacing: Sequence[float], patch_size: Sequence[int]) -> None:
    """A configuration ``3d_lowres``, which nnU-Net does not plan for images that a patch covers."""
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_lowres"] = {
        "inherits_from": "3d_fullres",
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": list(spacing),
        "patch_size": list(patch_size),
    }
    plans_file.write_text(json.dumps(plans, indent=4))


def _copy(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)
