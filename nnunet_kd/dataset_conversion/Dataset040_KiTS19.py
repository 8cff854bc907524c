"""KiTS19: kidneys and their tumours in CT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_kd.dataset_conversion.cases import Role
from nnunet_kd.dataset_conversion.declare import REGIONS, Option, RawDataset, numbered
from nnunet_kd.dataset_conversion.scan import Scan
from nnunet_kd.utilities.errors import UserError

FAULTY, WRONG = (23, 68, 125, 133), (15, 37)
DROP = Option("drop_faulty", "leave out cases 23, 68, 125 and 133, as nnU-Net's authors did in the challenge")
CORRECTED = Option(
    "corrected",
    "folder with corrected segmentations of cases 15 and 37 (case_00015.nii.gz, ...), as nnU-Net's authors used in the "
    "challenge; default: the downloaded ones",
    is_folder=True,
)
FIRST_TEST = 210


def find(scan: Scan, options: Mapping[str, Any]) -> None:
    """``data/case_00000/{imaging,segmentation}.nii.gz``; from case 210 on the images alone."""
    data = scan.folder("data") if scan.folder("data").is_dir() else scan.root
    corrected = find_corrected(options.get("corrected"))
    dropped = FAULTY if options.get("drop_faulty") else ()
    for folder, match in scan.folders(data, r"case_(\d{5})"):
        number = int(match[1])
        if number in dropped:
            scan.drop(folder, folder.name)
            continue
        role: Role = "train" if number < FIRST_TEST else "test"
        label = None
        if number in corrected:
            scan.leave_out(p for p, _ in scan.images(folder, "segmentation"))
            label = corrected[number]
        elif role == "train" or any(scan.images(folder, "segmentation")):
            label = scan.image(folder, "segmentation", "the label")
        scan.add(role, folder.name, [scan.image(folder, "imaging", "the image")], label)
    if dropped:
        scan.notes.append(f"cases {', '.join(map(str, dropped))} left out (--drop_faulty)")
    if corrected:
        scan.notes.append(f"segmentations of cases {', '.join(map(str, WRONG))} replaced (--corrected)")


def find_corrected(folder: Path | None) -> dict[int, Path]:
    """Corrected segmentations by case number.

    Raises:
        UserError: when one of the two is not in the folder.
    """
    if folder is None:
        return {}
    files = {n: folder / f"case_{n:05d}.nii.gz" for n in WRONG}
    for file in files.values():
        if not file.is_file():
            raise UserError(f"--corrected {folder}: {file.name} is not there; it holds the new segmentation.")
    return files


DATASET = RawDataset(
    name="KiTS19",
    dataset_id=40,
    title="kidneys and kidney tumours, CT; 210 training and 90 test cases",
    layout="data/case_00000/imaging.nii.gz and segmentation.nii.gz, ..., data/case_00210/imaging.nii.gz, ...",
    markers=("data/case_00*", "case_00*"),
    find=find,
    channel_names={0: "CT"},
    labels={"background": 0, "kidney": 1, "tumor": 2},
    label_values={0: 0, 1: 1, 2: 2},
    licence="CC BY-NC-SA 4.0, see the download page",
    citation="Heller et al. 2019: The KiTS19 Challenge Data: 300 Kidney Tumor Cases with Clinical Context, CT Semantic "
    "Segmentations, and Surgical Outcomes, arXiv:1904.00445",
    page="https://github.com/neheller/kits19",
    expected={"train": numbered("case_{:05d}", 0, 209), "test": numbered("case_{:05d}", 210, 299)},
    regions={"background": (0,), "kidney": (1, 2), "tumor": (2,)},
    options=(REGIONS, DROP, CORRECTED),
    paper="LiTS and KiTS19",
)
