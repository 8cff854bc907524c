"""LiTS 2017: liver and its tumours in CT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_kd.dataset_conversion import headers
from nnunet_kd.dataset_conversion.declare import REGIONS, RawDataset, numbered
from nnunet_kd.dataset_conversion.scan import Scan


def find(scan: Scan, options: Mapping[str, Any]) -> None:
    """``volume-0.nii`` and ``segmentation-0.nii`` in whatever batch folders, ``test-volume-0.nii``."""
    labels, volumes = by_number(scan, r"segmentation-(\d+)"), by_number(scan, r"volume-(\d+)")
    for number in sorted(labels.keys() | volumes.keys()):
        if number not in labels:
            scan.missing(f"{volumes[number]}: segmentation-{number} is missing.")
        elif number not in volumes:
            scan.missing(f"{labels[number]}: volume-{number} is missing.")
        else:
            scan.add("train", f"LiTS_{number:03d}", [volumes[number]], labels[number])
    for number, path in by_number(scan, r"test-volume-(\d+)").items():
        scan.add("test", f"LiTS_test_{number:03d}", [path])


def by_number(scan: Scan, pattern: str) -> dict[int, Path]:
    """Files of the batch folders by the number in their name; a number that is there twice is a problem."""
    found: dict[int, Path] = {}
    for path, match in scan.images(scan.root, pattern, recursive=True):
        if found.setdefault(int(match[1]), path) != path:
            scan.problem(f"{path}: {found[int(match[1])]} has the same number; keep one of the two.")
    return found


DATASET = RawDataset(
    name="LiTS",
    dataset_id=29,
    title="liver and liver tumours, CT (LiTS 2017); 131 training and 70 test cases",
    layout="volume-0.nii and segmentation-0.nii, ..., in one folder or several (Training Batch 1, Training Batch 2), "
    "test-volume-0.nii, ...",
    markers=("volume-*.nii*", "*/volume-*.nii*"),
    find=find,
    channel_names={0: "CT"},
    labels={"background": 0, "liver": 1, "tumor": 2},
    label_values={0: 0, 1: 1, 2: 2},
    licence="CC BY-NC-ND 4.0, see the download page",
    citation="Bilic et al. 2023: The Liver Tumor Segmentation Benchmark (LiTS), Med. Image Anal. 84 102680, "
    "arXiv:1901.04056",
    page="https://competitions.codalab.org/competitions/17094",
    expected={"train": numbered("LiTS_{:03d}", 0, 130), "test": numbered("LiTS_test_{:03d}", 0, 69)},
    repair=headers.affine_from_spacing,
    reader="NibabelIOWithReorient",  # the orientation varies from case to case
    regions={"background": (0,), "liver": (1, 2), "tumor": (2,)},
    options=(REGIONS,),
    notes=(
        "volumes 28 to 47 have identity affines: their voxel size is taken from pixdim, their orientation is not known",
    ),
    paper="LiTS and KiTS19",
)
