"""Reading images of all formats: where their voxels are, and what is in them."""

import contextlib
import locale
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_kd.data.read_images import NIFTI, ImageError, load_nifti, try_reading
from nnunet_kd.dataset_conversion.pixels import is_pixels, read_pixels
from nnunet_kd.dataset_conversion.scan import split_ending

# A direction is a rotation in floats of 32 bits; an origin is compared in mm.
DIRECTION_TOLERANCE, ORIGIN_TOLERANCE_MM = 1e-3, 1e-2


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an image are.

    Attributes:
        shape: voxels (x, y, z), in 2D (x, y).
        spacing_mm: voxel size in the same order.
        affine: voxel index -> position in mm, axes to right, anterior, superior; (4, 4).
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    affine: np.ndarray

    def differences(self, other: "Geometry") -> list[str]:
        """What differs from ``other``, in words; shape alone when the shapes differ.

        The spacing is compared as nnU-Net 2.8.1 does when it verifies a data set.
        """
        if self.shape != other.shape:
            return [f"shape {list(self.shape)} against {list(other.shape)}"]
        found = []
        if not np.allclose(self.spacing_mm, other.spacing_mm):
            found.append(f"spacing {_words(self.spacing_mm)} against {_words(other.spacing_mm)} mm")
        origins = self.affine[:3, 3], other.affine[:3, 3]
        if not np.allclose(*origins, rtol=1e-5, atol=ORIGIN_TOLERANCE_MM):
            found.append(f"origin {_words(origins[0])} against {_words(origins[1])} mm")
        if not np.allclose(self._direction(), other._direction(), rtol=0, atol=DIRECTION_TOLERANCE):
            found.append("direction of the axes")
        return found

    def _direction(self) -> np.ndarray:
        axes = self.affine[:3, :3]
        return axes / np.linalg.norm(axes, axis=0)


def _words(values) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def is_nifti(path: Path) -> bool:
    """Whether the file's name says that it is NIfTI."""
    return split_ending(path.name)[1] in NIFTI


def load_header(path: Path) -> Any:
    """The NIfTI header as it is in the file; ``nibabel.load`` resets the voxels' offset and scaling in its own."""
    image = load_nifti(path)
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        return try_reading(lambda: type(image.header).from_fileobj(file))


def nifti_geometry(header: Any) -> Geometry:
    """Geometry of a NIfTI header, with the affine that nibabel prefers (the sform where there is one)."""
    shape = tuple(int(n) for n in header.get_data_shape())
    _check_dimensions(shape)
    return Geometry(shape, tuple(float(z) for z in header.get_zooms()[:3]), header.get_best_affine())


def read_image(path: Path) -> tuple[Geometry, np.ndarray]:
    """Geometry and voxels of an image file or DICOM folder.

    Returns:
        the geometry, and the voxels in the order of the library that reads the format: (x, y, z) for NIfTI,
        (z, y, x) for other volumes, (y, x) or (y, x, channel) for 2D images.

    Raises:
        ImageError: when the file cannot be read or is not 3D (PNG: 2D; TIFF: 2D or 3D).
    """
    if is_nifti(path):
        image = load_nifti(path)
        return nifti_geometry(image.header), try_reading(lambda: np.asanyarray(image.dataobj))
    if is_pixels(path):
        pixels, spacing_mm = read_pixels(path)
        spacing_mm, shape = spacing_mm[::-1], pixels.shape[: len(spacing_mm)][::-1]
        return Geometry(shape, spacing_mm, np.diag([*spacing_mm, *[1.0] * (4 - len(shape))])), pixels
    volume = read_volume(path)
    return volume_geometry(volume), sitk.GetArrayFromImage(volume)


def read_volume(path: Path) -> sitk.Image:
    """A volume by SimpleITK, from a file or a folder with one DICOM series."""
    volume = read_series(path) if path.is_dir() else try_reading(lambda: sitk.ReadImage(str(path)))
    _check_dimensions(volume.GetSize())
    if volume.GetNumberOfComponentsPerPixel() != 1:
        raise ImageError(f"has {volume.GetNumberOfComponentsPerPixel()} values per voxel, expected 1")
    return volume


def volume_geometry(volume: sitk.Image) -> Geometry:
    """Geometry of a SimpleITK volume; its axes point left and posterior, ours right and anterior."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(volume.GetDirection(), (3, 3)) * volume.GetSpacing()
    affine[:3, 3] = volume.GetOrigin()
    return Geometry(volume.GetSize(), volume.GetSpacing(), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def check_nnunet_reads(path: Path, ending: str) -> None:
    """Data sets of .nii.gz are read by nnU-Net with SimpleITK, which refuses axes that are not at right angles.

    Raises:
        ImageError: when SimpleITK cannot read the header.
    """
    if ending == ".nii.gz" and is_nifti(path):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        try_reading(reader.ReadImageInformation)


def read_series(folder: Path) -> sitk.Image:
    """The one DICOM series of a folder, slices in their order in space.

    Raises:
        ImageError: when there is no series or more than one, or when slices are missing.
    """
    with same_locale():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if len(series) != 1:
            raise ImageError(f"holds {len(series)} DICOM series, expected 1")
        reader = sitk.ImageSeriesReader()
        files = reader.GetGDCMSeriesFileNames(str(folder), series[0])
        positions = np.array([_slice_position(f) for f in files])
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        if len(steps) and not np.allclose(steps, np.median(steps), rtol=0.02, atol=0.02):
            raise ImageError(f"slices are between {steps.min():.3g} and {steps.max():.3g} mm apart; some are missing")
        reader.SetFileNames(files)
        return try_reading(reader.Execute)


@contextlib.contextmanager
def same_locale() -> Iterator[None]:
    """GDCM sets the locale of the process to "C", after which Python reads and writes text files as ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _slice_position(file: str) -> list[float]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try_reading(reader.ReadImageInformation)
    return [float(v) for v in reader.GetMetaData("0020|0032").split("\\")]


def _check_dimensions(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ImageError(f"has {len(shape)} dimensions {list(shape)}, expected 3")
    if 0 in shape:
        raise ImageError(f"has no voxels, shape {list(shape)}")
