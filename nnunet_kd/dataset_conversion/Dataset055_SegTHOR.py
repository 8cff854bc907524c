"""SegTHOR: organs at risk in thoracic CT."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunet_kd.dataset_conversion import splits
from nnunet_kd.dataset_conversion.cases import Case, Fold
from nnunet_kd.dataset_conversion.declare import RawDataset, numbered
from nnunet_kd.dataset_conversion.scan import Scan


def find(scan: Scan, options: Mapping[str, Any]) -> None:
    """``train/Patient_01/{Patient_01,GT}.nii.gz``, ``test/Patient_41.nii.gz``."""
    for folder, _ in scan.folders(scan.folder("train"), r"Patient_\d+"):
        scan.add(
            "train", folder.name, [scan.image(folder, folder.name, "the image")], scan.image(folder, "GT", "the label")
        )
    for file, match in scan.images(scan.folder("test"), r"Patient_\d+"):
        scan.add("test", match[0], [file])


def make_splits(cases: Sequence[Case], options: Mapping[str, Any]) -> list[Fold]:
    """nnU-Net's folds as 0 to 4, Noothout's 35 + 5 as the last one."""
    return [*splits.five_folds(cases), *splits.hold_out(cases, 5, "Noothout et al. 2022, Sec. 4")]


DATASET = RawDataset(
    name="SegTHOR",
    dataset_id=55,
    title="thoracic organs at risk, CT: esophagus, heart, trachea, aorta; 40 training and 20 test cases",
    layout="train/Patient_01/Patient_01.nii.gz and GT.nii.gz, ..., test/Patient_41.nii.gz, ...",
    markers=("train/Patient_*",),
    find=find,
    channel_names={0: "CT"},
    labels={"background": 0, "esophagus": 1, "heart": 2, "trachea": 3, "aorta": 4},
    label_values={0: 0, 1: 1, 2: 2, 3: 3, 4: 4},
    licence="terms of the SegTHOR challenge, see the download page",
    citation="Lambert et al. 2020: SegTHOR: Segmentation of Thoracic Organs at Risk in CT images, IPTA, "
    "arXiv:1912.05950; Trullo et al. 2019: Multiorgan segmentation using distance-aware adversarial networks, "
    "J. Med. Imaging 6(1) 014001",
    page="https://competitions.codalab.org/competitions/21145",
    expected={"train": numbered("Patient_{:02d}", 1, 40), "test": numbered("Patient_{:02d}", 41, 60)},
    splits=make_splits,
    paper="SegTHOR",
)
