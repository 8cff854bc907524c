"""What a conversion works on: cases with their roles, and folds of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["train", "test", "unlabeled"]
ROLES: tuple[Role, ...] = ("train", "test", "unlabeled")


@dataclass(frozen=True)
class Case:
    """One case of the raw data.

    Attributes:
        name: nnU-Net's case identifier.
        images: one file for each channel; a folder stands for a DICOM series.
        label: file of the reference segmentation, None where there is none.
        group: what must not be torn apart by a split (a patient) or what splits go by (a site); default: the name.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str = ""


@dataclass(frozen=True)
class Fold:
    """One entry of ``splits_final.json``; ``note`` says where it comes from."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    note: str
