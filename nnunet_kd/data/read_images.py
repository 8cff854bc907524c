"""Images as nnU-Net's readers give them; files that they would misread, or that cannot be preprocessed, are refused.

Workers import this module: nothing here may import torch when it is loaded.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from nnunet_kd.utilities.errors import UserError

NIFTI = (".nii.gz", ".nii")
MAX_VOXELS = 2**31


class ImageError(Exception):
    """An image file that cannot be used; the text says why, without the file's name."""


def try_reading(read: Callable[[], Any]) -> Any:
    """What ``read`` returns; every failure of a reader becomes one kind of error.

    Raises:
        ImageError: with the last line of whatever was raised.
    """
    try:
        return read()
    except ImageError:
        raise
    except Exception as err:
        lines = [line for line in str(err).splitlines() if line.strip()]
        # nnU-Net 2.8 prints what differs and raises an error without a text
        reason = lines[-1].strip() if lines else "its channels differ in shape or spacing"
        raise ImageError(f"cannot be read ({reason})") from err


def load_nifti(path: Path) -> Any:
    """Opens a NIfTI file without reading its voxels.

    Raises:
        ImageError: when it is none, or holds no numbers.
    """
    image = try_reading(lambda: nib.load(path))
    if not isinstance(image, nib.Nifti1Image):
        raise ImageError("is not a NIfTI file")
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"holds colours or complex values ({image.get_data_dtype()}), expected one number per voxel")
    return image


def check_finite(voxels: np.ndarray) -> None:
    """Refuses NaN and infinity, which nnU-Net's normalisation would spread over the whole image.

    Raises:
        ImageError: with the number of such voxels.
    """
    if voxels.dtype.kind not in "iu" and (bad := voxels.size - int(np.isfinite(voxels).sum())):
        raise ImageError(f"{bad} voxels are NaN or infinite")


def read_images(reader: Any, files: Sequence[Path]) -> tuple[np.ndarray, dict[str, Any]]:
    """An image (C, z, y, x) and its properties, as one of nnU-Net's readers gives them.

    Args:
        reader: an instance of nnU-Net's class.
        files: one for each channel.

    Raises:
        ImageError: for files that cannot be read or do not fit each other, voxels that are not finite, none at all, or
            of no size.
    """
    return _checked(lambda: reader.read_images([str(f) for f in files]), files)


def read_labels(reader: Any, file: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """A segmentation (1, z, y, x) and its properties, see :func:`read_images`."""
    return _checked(lambda: reader.read_seg(str(file)), [file])


def read_case(plans: Any, configuration: Any, files: Sequence[Path]) -> tuple[np.ndarray, dict[str, Any]]:
    """An image (C, z, y, x) that a model is to see, and its properties, as nnU-Net reads them.

    Args:
        plans: the model's, nnU-Net's ``PlansManager``.
        configuration: its ``ConfigurationManager``.
        files: one for each channel.

    Raises:
        ImageError: as :func:`read_images` does, and for another number of channels than the model takes, or a spacing
            at which the resampled image is empty or absurdly large.
    """
    image, properties = read_images(plans.image_reader_writer_class(), files)
    channels = len(configuration.normalization_schemes)
    if len(image) != channels:
        raise ImageError(f"holds {len(image)} channels, expected {channels}")
    order = plans.transpose_forward
    shape, spacing = [image.shape[1 + i] for i in order], [float(properties["spacing"][i]) for i in order]
    target = [*spacing[: 3 - len(configuration.spacing)], *configuration.spacing]  # 2D: slices stay
    resampled = np.multiply(shape, spacing) / target
    if resampled.min() < 0.5 or resampled.prod() > MAX_VOXELS:
        raise ImageError(
            f"has {_product(shape)} voxels of {_product(spacing)} mm, which become {_product(np.round(resampled))} of "
            f"{_product(target)} mm; its spacing cannot be right"
        )
    return image, properties


def preprocess_case(
    plans: Any, configuration: Any, dataset_json: Mapping[str, Any], files: Sequence[Path]
) -> tuple[np.ndarray, dict[str, Any]]:
    """An image (C, z, y, x) as a model's network sees it, and nnU-Net's properties.

    Args:
        plans: the model's, nnU-Net's ``PlansManager``.
        configuration: its ``ConfigurationManager``.
        dataset_json: its ``dataset.json``.
        files: one for each channel.

    Raises:
        UserError: for an image that cannot be read or preprocessed, see :func:`read_case`.
    """
    try:
        image, properties = read_case(plans, configuration, files)
    except ImageError as err:
        raise UserError(f"{files[0]}: {err}.") from err
    preprocessor = configuration.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case_npy(image, None, properties, plans, configuration, dataset_json)
    return np.asarray(data, dtype=np.float32), properties


def _checked(
    read: Callable[[], tuple[np.ndarray, dict[str, Any]]], files: Sequence[Path]
) -> tuple[np.ndarray, dict[str, Any]]:
    nifti = [load_nifti(file) for file in files if file.name.lower().endswith(NIFTI)]
    if empty := [n for n in nifti if 0 in n.shape]:
        raise ImageError(f"has no voxels, shape {list(empty[0].shape)}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # nnU-Net's readers drop the imaginary part
        image, properties = try_reading(read)
    if image.ndim != 4 or image.size == 0:
        raise ImageError(f"has no voxels or too many axes, shape {list(image.shape)}")
    spacing = try_reading(lambda: np.asarray(properties["spacing"], dtype=float))
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise ImageError(f"has a spacing of {_product(spacing)} mm, expected numbers > 0")
    check_finite(image)
    for in_file in nifti if "sitk_stuff" in properties else []:
        if in_file.get_data_dtype().kind == "f":  # SimpleITK reads NaN and infinity in NIfTI files as 0
            check_finite(try_reading(partial(np.asanyarray, in_file.dataobj)))
    return image, properties


def _product(numbers: Any) -> str:
    return " x ".join(f"{n:.6g}" for n in numbers)
