"""ACDC: heart in short-axis cine MRI, end-diastole and end-systole."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_kd.dataset_conversion import headers, splits
from nnunet_kd.dataset_conversion.cases import Case, Fold, Role
from nnunet_kd.dataset_conversion.declare import Option, RawDataset, numbered
from nnunet_kd.dataset_conversion.scan import Scan

FRAMES = Option(
    "frames",
    "frames to take: both, as nnU-Net does, or end-diastole alone, as Noothout et al. 2022; default: ED+ES",
    choices=("ED+ES", "ED"),
    default="ED+ES",
)


def find(scan: Scan, options: Mapping[str, Any]) -> None:
    """``training/patient001/patient001_frame01{,_gt}.nii.gz``, frames named by ``Info.cfg``; test cases alike."""
    roles: dict[str, Role] = {"training": "train", "testing": "test"}
    wanted = options.get("frames", FRAMES.default).split("+")
    for name, role in roles.items():
        for folder, match in scan.folders(scan.folder(name), r"patient\d{3}"):
            patient = match[0].lower()
            scan.leave_out(p for p, _ in scan.images(folder, rf"{patient}_4d"))
            frames = read_frames(scan, folder)
            for phase, number in frames.items():
                frame = f"{patient}_frame{number:02d}"
                label = re.escape(f"{frame}_gt")
                if phase not in wanted:
                    scan.leave_out(p for p, _ in scan.images(folder, rf"{frame}(_gt)?"))
                elif role == "train" or any(scan.images(folder, label)):
                    image = scan.image(folder, frame, f"the {phase} image")
                    scan.add(role, frame, [image], scan.image(folder, f"{frame}_gt", f"the {phase} label"), patient)
                else:
                    scan.add(role, frame, [scan.image(folder, frame, f"the {phase} image")], group=patient)


def read_frames(scan: Scan, folder: Path) -> dict[str, int]:
    """Numbers of the ED and ES frames, from the patient's ``Info.cfg``; empty, and noted, when they are not there."""
    file = folder / "Info.cfg"
    if not file.is_file():
        scan.missing(f"{file}: is missing; it says which frames are end-diastole and end-systole.")
        return {}
    entries = dict(re.findall(r"^\s*(ED|ES)\s*:\s*(\d+)\s*$", file.read_text(errors="replace"), re.MULTILINE))
    if set(entries) != {"ED", "ES"}:
        scan.problem(f"{file}: expected the lines 'ED: NUMBER' and 'ES: NUMBER'.")
        return {}
    return {phase: int(entries[phase]) for phase in ("ED", "ES")}


def make_splits(cases: Sequence[Case], options: Mapping[str, Any]) -> list[Fold]:
    """Five folds over patients as 0 to 4, Noothout's 90 + 10 patients as the last one."""
    return [*splits.five_folds(cases), *splits.hold_out(cases, 10, "Noothout et al. 2022, Sec. 4 (patients)")]


DATASET = RawDataset(
    name="ACDC",
    dataset_id=27,
    title="heart, cine MRI: right ventricle, myocardium, left ventricle; 100 training and 50 test patients",
    layout="training/patient001/Info.cfg, patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz, ..., "
    "testing/patient101/...",
    markers=("training/patient*",),
    find=find,
    channel_names={0: "cineMRI"},
    labels={"background": 0, "RV": 1, "Myo": 2, "LV": 3},
    label_values={0: 0, 1: 1, 2: 2, 3: 3},
    licence="CC BY-NC-SA 4.0, see the download page",
    citation="Bernard et al. 2018: Deep Learning Techniques for Automatic MRI Cardiac Multi-structures Segmentation "
    "and Diagnosis: Is the Problem Solved?, IEEE Trans. Med. Imaging 37(11) 2514-2525",
    page="https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html",
    expected={"train": numbered("patient{:03d}", 1, 100), "test": numbered("patient{:03d}", 101, 150)},
    splits=make_splits,
    repair=headers.sform_from_qform,
    options=(FRAMES,),
    paper="ACDC",
)
