"""nnU-Net's folders and devices, with messages for those who have not set them up; torch only where it is used."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import check_component

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DatasetPaths:
    """Folders of one data set; ``raw`` may not exist."""

    name: str
    raw: Path | None
    preprocessed: Path
    results: Path


def dataset_paths(name_or_id: str) -> DatasetPaths:
    """Finds a data set's folders as nnU-Net does.

    Raises:
        UserError: when nnU-Net's variables are not set, or there is no such data set.
    """
    for variable, path in (("nnUNet_preprocessed", nnUNet_preprocessed), ("nnUNet_results", nnUNet_results)):
        if not path.is_set():
            raise UserError(
                f"{variable} is not set; set it as nnU-Net's documentation says (export {variable}=FOLDER)."
            )
    check_component(name_or_id, "-d")
    try:
        name = maybe_convert_to_dataset_name(int(name_or_id) if name_or_id.isdecimal() else name_or_id)
    except (RuntimeError, ValueError):
        raise UserError(
            f"-d {name_or_id}: no such data set in nnUNet_raw, nnUNet_preprocessed or nnUNet_results."
        ) from None
    preprocessed = Path(nnUNet_preprocessed) / name
    if not preprocessed.is_dir():
        raise UserError(f"{preprocessed}: not there; run nnUNetv2_plan_and_preprocess -d {name_or_id} first.")
    raw = Path(nnUNet_raw) / name if nnUNet_raw.is_set() else None
    return DatasetPaths(name, raw, preprocessed, Path(nnUNet_results) / name)


def torch_device(name: str) -> "torch.device":
    """The device of nnU-Net's ``-device`` flag; ``auto``, which is printed: CUDA where it is, else MPS, else the CPU.

    Raises:
        UserError: when the machine has no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        print(f"-device {name}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("-device cuda: no CUDA device here; use -device cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("-device mps: no MPS device here; use -device cpu.")
    return torch.device(name)


def limit_threads(device: "torch.device") -> None:
    """As many threads on the CPU as ``OMP_NUM_THREADS`` says, which nnU-Net's commands override with all cores."""
    import torch

    threads = os.environ.get("OMP_NUM_THREADS", "")
    if device.type == "cpu" and threads.isdecimal() and int(threads) > 0:
        torch.set_num_threads(int(threads))
