"""Folders of images in nnU-Net's naming: which cases there are, and which of them are known already."""

import filecmp
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import list_folder


@dataclass(frozen=True)
class ImageCase:
    """A case by its name and its image files, in the order of the channels."""

    name: str
    images: tuple[Path, ...]


def find_cases(folders: Sequence[Path], channels: int, file_ending: str) -> tuple[list[ImageCase], dict[str, str]]:
    """Cases in nnU-Net's naming (``CASE_0000.nii.gz``), sorted by name, and what is wrong with the others.

    Args:
        folders: folders with images; a case lies in one of them.
        channels: number of image channels of the data set.
        file_ending: for example ``.nii.gz``.

    Returns:
        The whole cases, and file or case name -> fault.

    Raises:
        UserError: for a folder that does not exist, and for a case that is in two of them.
    """
    found: dict[str, dict[int, Path]] = {}
    home: dict[str, Path] = {}
    faults: dict[str, str] = {}
    pattern = re.compile(r"(?P<case>[^.].*)_(?P<channel>\d{4})" + re.escape(file_ending))
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of images.")
        for file in (f for f in list_folder(folder) if f.name.endswith(file_ending)):
            match = pattern.fullmatch(file.name)
            if match is None:
                faults[file.name] = f"is not named CASE_0000{file_ending}"
                continue
            if not file.is_file():
                faults[file.name] = "is a folder or a link to nothing"
                continue
            case = match["case"]
            if home.setdefault(case, folder) != folder:
                raise UserError(f"case {case}: is in {home[case]} and in {folder}; rename or remove one of them.")
            found.setdefault(case, {})[int(match["channel"])] = file.resolve()
    cases = []
    for case, files in sorted(found.items()):
        if sorted(files) == list(range(channels)):
            cases.append(ImageCase(case, tuple(files[c] for c in range(channels))))
        else:
            there = ", ".join(f"{c:04d}" for c in sorted(files))
            faults[case] = f"has the channels {there}, the data set has {channels} (0000 to {channels - 1:04d})"
    return cases, faults


def refuse_known(cases: Sequence[ImageCase], known: Iterable[Path], file_ending: str) -> None:
    """Refuses unlabeled cases that are labeled or test cases, by their name or by the content of their files.

    Args:
        cases: unlabeled cases.
        known: ``imagesTr`` and folders of test images; those that do not exist are passed over.
        file_ending: for example ``.nii.gz``.

    Raises:
        UserError: names the cases and where else they are.
    """
    there = (f for folder in known if folder.is_dir() for f in sorted(folder.iterdir()))
    others = [f for f in there if f.name.endswith(file_ending) and f.is_file()]
    by_name = {re.sub(r"_\d{4}$", "", f.name.removesuffix(file_ending)): f for f in others}
    by_size: dict[int, list[Path]] = {}
    for file in others:
        by_size.setdefault(file.stat().st_size, []).append(file)
    twins = []
    for case in cases:
        twin = by_name.get(case.name) or _same_content(case.images[0], by_size)
        if twin is not None:
            twins.append(f"{case.name} ({twin.parent.name}/{twin.name})")
    if twins:
        raise UserError(
            f"{len(twins)} unlabeled cases are training or test cases too: {listing(twins)}; remove them from the "
            "unlabeled images."
        )


def _same_content(file: Path, by_size: dict[int, list[Path]]) -> Path | None:
    """A file with equal bytes; reading stops at the first difference."""
    candidates = by_size.get(file.stat().st_size, [])
    return next((c for c in candidates if filecmp.cmp(file, c, shallow=False)), None)


def listing(items: Sequence[str], at_most: int = 10) -> str:
    """The first items, and how many there are beyond them."""
    more = f" and {len(items) - at_most} more" if len(items) > at_most else ""
    return "; ".join(items[:at_most]) + more
