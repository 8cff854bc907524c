"""NIfTI headers that are known to be broken, mended; the voxels stay as they are."""

import gzip
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np


def sform_from_qform(header: Any) -> str | None:
    """Replaces an identity sform by the qform, where the voxel size shows that the sform is wrong.

    Args:
        header: NIfTI header, changed in place.

    Returns:
        what was done, None when nothing was.
    """
    if int(header["sform_code"]) == 0 or int(header["qform_code"]) == 0 or not _is_unit(header.get_sform()):
        return None
    qform = header.get_qform()
    if np.allclose(qform, header.get_sform()):
        return None
    header.set_sform(qform, int(header["qform_code"]))
    return "the sform is the identity; geometry taken from the qform"


def affine_from_spacing(header: Any) -> str | None:
    """Replaces an identity affine by one with the header's voxel size; origin 0, axes as the array's.

    Args:
        header: NIfTI header, changed in place.

    Returns:
        what was done or could not be, None when the affine is not the identity.
    """
    spacing = np.array(header.get_zooms()[:3], np.float64)
    if np.allclose(spacing, 1) and _is_unit(header.get_best_affine()):
        return "the affine is the identity and the voxel size is 1 mm: the true one is not in the file, left as it is"
    if int(header["sform_code"]) and _is_unit(header.get_sform()):
        affine = np.diag([*spacing, 1.0])
        header.set_sform(affine, int(header["sform_code"]))
        header.set_qform(affine, int(header["sform_code"]))
        return "the affine is the identity; voxel size taken from pixdim, axes and origin are not in the file"
    return None


def copy_geometry(source: Any, target: Any) -> None:
    """Gives a header the voxel size, qform and sform of another, bit for bit."""
    for key in (
        *("pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d"),
        *("qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z"),
    ):
        target[key] = source[key]


def rewrite(source: Path, target: Path, header: Any | None = None) -> None:
    """Copies a NIfTI file with another compression or header; every byte of the voxels stays.

    Args:
        source: .nii or .nii.gz
        target: .nii or .nii.gz; a compressed file holds no name and no time, so the same input gives the same bytes.
        header: takes the place of the source's; None keeps it.
    """
    with ExitStack() as stack:
        read: Any = stack.enter_context(source.open("rb"))
        if _is_compressed(source):
            read = stack.enter_context(gzip.GzipFile(fileobj=read))
        write: Any = stack.enter_context(target.open("wb"))
        if _is_compressed(target):
            write = stack.enter_context(gzip.GzipFile("", "wb", compresslevel=6, fileobj=write, mtime=0))
        if header is not None:
            read.read(len(header.binaryblock))
            write.write(header.binaryblock)
        shutil.copyfileobj(read, write, 1 << 22)


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _is_unit(affine: np.ndarray) -> bool:
    return bool(np.allclose(affine, np.eye(4)))
