"""Where the data set is in the folder the user named, and which file ending the new one gets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_kd.dataset_conversion.cases import Case, Role
from nnunet_kd.dataset_conversion.declare import RawDataset
from nnunet_kd.dataset_conversion.scan import children, split_ending
from nnunet_kd.utilities.errors import UserError

NNUNET_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd", ".png")
FLAT_OR_STACK = {".png", ".tif", ".tiff"}


def locate(raw: Path, dataset: RawDataset) -> Path:
    """The data set's folder: ``raw`` itself, or the one folder at most two levels below it that looks like it.

    Raises:
        UserError: when there is none, or more than one.
    """
    raw = raw.expanduser().resolve()
    if not raw.is_dir():
        raise UserError(f"-i {raw}: {'is not a folder' if raw.exists() else 'no such folder'}.")
    level = [raw]
    for _ in range(3 if dataset.markers else 0):
        found = [folder for folder in level if any(next(folder.glob(m), None) for m in dataset.markers)]
        if len(found) > 1:
            raise UserError(f"-i {raw}: holds {dataset.name} {len(found)} times ({found[0]}, {found[1]}); name one.")
        if found:
            return found[0]
        level = [child for folder in level for child in children(folder) if child.is_dir()]
    if dataset.markers:
        raise UserError(f"-i {raw}: does not look like {dataset.name}, whose layout is: {dataset.layout}")
    return raw


def choose_ending(cases: Mapping[Role, Sequence[Case]]) -> tuple[str, list[str]]:
    """The one file ending that nnU-Net wants for all images and labels of a data set, and the problems with it.

    A format that nnU-Net reads stays; ``.mhd`` becomes ``.mha``, which holds the same header; TIFF, with or without
    PNG, becomes ``.tif``; another mixture and DICOM become ``.nii.gz``.
    """
    files = [f for role in cases.values() for c in role for f in (*c.images, *([c.label] if c.label else []))]
    endings = sorted({"" if f.is_dir() else split_ending(f.name)[1] for f in files})
    if pixels := FLAT_OR_STACK & set(endings):
        if pixels < set(endings):
            names = "PNG images" if pixels == {".png"} else "TIFF images"
            return ".nii.gz", [f"{files[0].parent}: {names} are mixed with volumes; convert them as two data sets."]
        return (".png" if pixels == {".png"} else ".tif"), []
    if len(endings) == 1 and endings[0] in NNUNET_ENDINGS:
        return endings[0], []
    if endings and set(endings) <= {".mhd", ".mha"}:
        return ".mha", []
    return ".nii.gz", []
