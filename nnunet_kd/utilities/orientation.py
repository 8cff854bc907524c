"""Axes of nnU-Net's image readers: some keep an image as it lies in its file, others turn it to a common orientation.

All readers of nnU-Net 2.8 give (C, z, y, x). Those named ``...WithReorient`` permute and flip the axes of the file, for
each image as its header asks. What two readers give of one file therefore differs by permutations and flips alone,
which their properties tell; nothing is interpolated, and oblique images are no exception.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from nnunet_kd.utilities.errors import UserError

_KEEP_AXES = frozenset({"SimpleITKIO", "NibabelIO"})
_KNOWN = _KEEP_AXES | {"SimpleITKIOWithReorient", "NibabelIOWithReorient"}
_UNCHANGED = axcodes2ornt("RAS")  # axis i of the file is axis i of the reader, not flipped


def same_axes(reader: str, other: str) -> bool:
    """Whether two of nnU-Net's readers give every image with the same axes."""
    return reader == other or {reader, other} <= _KEEP_AXES


def check_readers(reader: str, other: str, where: str) -> None:
    """Refuses two readers between which nothing can be brought from one's axes to the other's.

    Args:
        reader: class name of the student's reader.
        other: of the teacher, or of the maps.
        where: who that is, for the message.

    Raises:
        UserError: names both.
    """
    if reader != other and not {reader, other} <= _KNOWN:
        raise UserError(
            f"{where}: images were read with {other}, the student reads them with {reader}, and how the axes of the "
            "two belong together is not known; plan both with the same reader (overwrite_image_reader_writer in "
            "dataset.json)."
        )


def turn(array: np.ndarray, source: Mapping[str, Any], target: Mapping[str, Any]) -> np.ndarray:
    """An array (C, z, y, x) in the axes of one reader, as a view in the axes of another one.

    Args:
        array: on the whole image.
        source: properties of the image as the first reader gave them.
        target: properties of the same image as the second reader gave them.
    """
    to_source, to_target = _orientation(source), _orientation(target)
    in_file = apply_orientation(array.T, ornt_transform(_UNCHANGED, to_source))  # nibabel's axes: x, y, z, others
    return apply_orientation(in_file, to_target).T


def _orientation(properties: Mapping[str, Any]) -> np.ndarray:
    """How a reader turned the axes (x, y, z) of the file, as nibabel writes it."""
    if "nibabel_stuff" in properties:
        geometry = properties["nibabel_stuff"]
        return io_orientation(geometry["original_affine"]) if "reoriented_affine" in geometry else _UNCHANGED
    code = properties.get("sitk_stuff", {}).get("original_orientation")
    return _UNCHANGED if code is None else axcodes2ornt(code)
