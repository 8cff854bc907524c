"""PROMISE12: prostate in T2 MRI."""

from collections.abc import Mapping
from typing import Any

from nnunet_kd.dataset_conversion.cases import Role
from nnunet_kd.dataset_conversion.declare import RawDataset, numbered
from nnunet_kd.dataset_conversion.scan import Scan


def find(scan: Scan, options: Mapping[str, Any]) -> None:
    """``Case00.mhd`` and ``Case00_segmentation.mhd`` in whatever folders; test cases below one called test."""
    for path, match in scan.images(scan.root, r"(Case\d{2})", recursive=True):
        inside = path.relative_to(scan.root).parts[:-1]
        role: Role = "test" if any("test" in part.lower() for part in inside) else "train"
        label = None
        if role == "train" or any(scan.images(path.parent, rf"{match[1]}_segmentation")):
            label = scan.image(path.parent, f"{match[1]}_segmentation", "the label")
        scan.add(role, match[1] if role == "train" else f"Test_{match[1]}", [path], label)


DATASET = RawDataset(
    name="PROMISE12",
    dataset_id=24,
    title="prostate, T2 MRI (PROMISE12); 50 training and 30 test cases",
    layout="Case00.mhd with Case00.raw, Case00_segmentation.mhd with its .raw, ..., in one folder or several; test "
    "cases in a folder whose name holds 'test'",
    markers=("Case00*.mhd", "*/Case00*.mhd"),
    find=find,
    channel_names={0: "T2"},
    labels={"background": 0, "prostate": 1},
    label_values={0: 0, 1: 1},
    licence="terms of the PROMISE12 challenge, see the download page",
    citation="Litjens et al. 2014: Evaluation of prostate segmentation algorithms for MRI: The PROMISE12 challenge, "
    "Med. Image Anal. 18(2) 359-373",
    page="https://promise12.grand-challenge.org/Download/",
    expected={"train": numbered("Case{:02d}", 0, 49), "test": numbered("Test_Case{:02d}", 0, 29)},
    notes=("ProstateMultiSite holds cases of PROMISE12: do not test on one what was trained on the other",),
    paper="Prostate",
)
