"""FLARE 2022: thirteen abdominal organs in CT, few cases with labels and many without."""

from collections.abc import Mapping
from typing import Any

from nnunet_kd.dataset_conversion.declare import RawDataset, numbered
from nnunet_kd.dataset_conversion.scan import Scan

ORGANS = (
    *("liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava", "right adrenal gland"),
    *("left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney"),
)
LABELED, UNLABELED, VALIDATION = r"FLARE22_LabeledCase\w*", r"FLARE22_UnlabeledCase[\w-]*", r"Validation(Set)?"


def find(scan: Scan, options: Mapping[str, Any]) -> None:
    """``FLARE22_LabeledCase50/{images,labels}``, ``FLARE22_UnlabeledCase*`` and ``Validation*``."""
    places = [scan.root, scan.folder("Training")]
    for place in places:
        for folder, _ in scan.folders(place, LABELED):
            labels = scan.folder("labels", folder)
            for path, match in scan.images(scan.folder("images", folder), r"(.+)_0000"):
                scan.add("train", match[1], [path], scan.image(labels, match[1], "the label"))
        for folder, _ in scan.folders(place, UNLABELED):
            for path, match in scan.images(folder, r"(.+)_0000", recursive=True):
                scan.add("unlabeled", match[1], [path])
        for folder, _ in scan.folders(place, VALIDATION):
            labels_there = {m[0]: path for path, m in scan.images(folder, r".+(?<!_0000)", recursive=True)}
            for path, match in scan.images(folder, r"(.+)_0000", recursive=True):
                scan.add("test", match[1], [path], labels_there.pop(match[1], None))
            for path in labels_there.values():
                scan.extra(f"{path}: there is no validation image of that name.")


DATASET = RawDataset(
    name="FLARE22",
    dataset_id=22,
    title="thirteen abdominal organs, CT; 50 labeled, 2000 unlabeled and 50 validation cases",
    layout="Training/FLARE22_LabeledCase50/images/FLARE22_Tr_0001_0000.nii.gz and labels/FLARE22_Tr_0001.nii.gz, ..., "
    "FLARE22_UnlabeledCase1-1000/Case_00001_0000.nii.gz, ..., Validation/..._0000.nii.gz",
    markers=("Training/FLARE22_LabeledCase*", "FLARE22_LabeledCase*"),
    find=find,
    channel_names={0: "CT"},
    labels={"background": 0} | {organ: i for i, organ in enumerate(ORGANS, 1)},
    label_values={i: i for i in range(len(ORGANS) + 1)},
    licence="terms of the FLARE22 challenge, see the download page",
    citation="Ma et al. 2024: Unleashing the strengths of unlabelled data in deep learning-assisted pan-cancer "
    "abdominal organ quantification: the FLARE22 challenge, Lancet Digit. Health 6(11), arXiv:2308.05862",
    page="https://flare22.grand-challenge.org/Dataset/",
    expected={"train": numbered("FLARE22_Tr_{:04d}", 1, 50), "unlabeled": 2000, "test": 50},
    notes=("the 50 validation cases become imagesTs; labels beside them, where there are any, labelsTs",),
    paper="FLARE22",
)
