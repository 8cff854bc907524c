"""Image files, read and written as nnU-Net's reader of the same name does."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .verify import BundleError


@dataclass(frozen=True)
class Image:
    """What is known of an image beside its voxels.

    Attributes:
        spacing: mm (z, y, x).
        geometry: what the writer needs to know of the file.
        properties: nnU-Net's properties of the case.
    """

    spacing: tuple[float, ...]
    geometry: Any
    properties: dict[str, Any]


class Reader:
    """Reads the channels of a case and writes a segmentation (z, y, x) on the same grid."""

    def read(self, files: Sequence[Path]) -> tuple[np.ndarray, Image]:
        """Channels (C, z, y, x), float32, from one file each, or several from one.

        Raises:
            BundleError: when they cannot be read or do not fit each other.
        """
        channels = []
        for file in files:
            try:
                channels.append(self._read_one(file))
            except Exception as err:
                raise BundleError(f"{file}: cannot be read ({' '.join(str(err).split())[:200]})") from err
        array, spacing, geometry, properties = channels[0]
        for file, (other, other_spacing, *_) in zip(files, channels, strict=True):
            if other.shape[1:] != array.shape[1:] or not np.allclose(other_spacing, spacing):
                raise BundleError(f"{file}: has another shape or spacing than {files[0].name}")
        voxels = np.concatenate([c[0] for c in channels], dtype=np.float32)
        return voxels, Image(spacing, geometry, properties)

    def _read_one(self, file: Path) -> tuple[np.ndarray, tuple[float, ...], Any, dict[str, Any]]:
        raise NotImplementedError

    def write(self, segmentation: np.ndarray, file: Path, image: Image) -> None:
        """Writes a segmentation (z, y, x) as 8 or 16 bits."""
        raise NotImplementedError


class SimpleITKReader(Reader):
    """``SimpleITKIO``; with ``reorient`` ``SimpleITKIOWithReorient``."""

    def __init__(self, reorient: bool):
        import SimpleITK

        self._sitk, self._reorient = SimpleITK, reorient

    def _read_one(self, file: Path) -> tuple[np.ndarray, tuple[float, ...], Any, dict[str, Any]]:
        sitk = self._sitk
        image, orientation = sitk.ReadImage(str(file)), None
        if self._reorient:
            orientation = sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines(image.GetDirection())
            image = sitk.DICOMOrient(image, "RAS")
        array = sitk.GetArrayFromImage(image)
        spacing = tuple(abs(s) for s in image.GetSpacing()[::-1])
        if array.ndim == 2:
            array, spacing = array[None], (max(spacing) * 999, *spacing)
        if array.ndim == 3:
            array = array[None]
        elif array.ndim == 4:
            spacing = spacing[1:]
        else:
            raise ValueError(f"it has {array.ndim} dimensions")
        stuff = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
        if orientation is not None:
            stuff["original_orientation"] = orientation
        return array, spacing, stuff, {"sitk_stuff": stuff, "spacing": list(spacing)}

    def write(self, segmentation: np.ndarray, file: Path, image: Image) -> None:
        sitk, geometry = self._sitk, image.geometry
        if len(geometry["spacing"]) > 3:
            raise BundleError("holds its channels in one four-dimensional file, on whose grid nothing can be written")
        voxels = segmentation[0] if len(geometry["spacing"]) == 2 else segmentation
        result = sitk.GetImageFromArray(_small(voxels))
        result.SetSpacing(geometry["spacing"])
        result.SetOrigin(geometry["origin"])
        result.SetDirection(geometry["direction"])
        if "original_orientation" in geometry:
            result = sitk.DICOMOrient(result, geometry["original_orientation"])
        sitk.WriteImage(result, str(file), True)


class NibabelReader(Reader):
    """``NibabelIO``; with ``reorient`` ``NibabelIOWithReorient``."""

    def __init__(self, reorient: bool):
        import nibabel

        self._nibabel, self._reorient = nibabel, reorient

    def _read_one(self, file: Path) -> tuple[np.ndarray, tuple[float, ...], Any, dict[str, Any]]:
        image: Any = self._nibabel.load(file)
        if image.ndim != 3:
            raise ValueError(f"it has {image.ndim} dimensions")
        original = image.affine
        stuff = {"original_affine": original}
        if self._reorient:
            image = image.as_reoriented(self._nibabel.io_orientation(original))
            stuff["reoriented_affine"] = image.affine
        spacing = tuple(float(s) for s in image.header.get_zooms()[::-1])
        array = np.asanyarray(image.dataobj).transpose(2, 1, 0)[None]
        return array, spacing, stuff, {"nibabel_stuff": stuff, "spacing": list(spacing)}

    def write(self, segmentation: np.ndarray, file: Path, image: Image) -> None:
        nibabel, stuff = self._nibabel, image.geometry
        result = nibabel.Nifti1Image(
            _small(segmentation.transpose(2, 1, 0)), stuff.get("reoriented_affine", stuff["original_affine"])
        )
        if "reoriented_affine" in stuff:
            orientations = nibabel.orientations
            back = orientations.ornt_transform(
                orientations.axcodes2ornt("RAS"), orientations.io_orientation(stuff["original_affine"])
            )
            result = result.as_reoriented(back)
        nibabel.save(result, file)


class NaturalImageReader(Reader):
    """``NaturalImage2DIO``: grey or coloured pictures."""

    def _read_one(self, file: Path) -> tuple[np.ndarray, tuple[float, ...], Any, dict[str, Any]]:
        import imageio.v3

        picture = np.asarray(imageio.v3.imread(file))
        if picture.ndim == 3 and picture.shape[-1] in (3, 4):
            array = picture.transpose(2, 0, 1)[:, None]
        elif picture.ndim == 2:
            array = picture[None, None]
        else:
            raise ValueError(f"it has shape {picture.shape}, expected a grey or coloured picture")
        return array, (999.0, 1.0, 1.0), None, {"spacing": (999, 1, 1)}

    def write(self, segmentation: np.ndarray, file: Path, image: Image) -> None:
        import imageio.v3

        imageio.v3.imwrite(file, _small(segmentation[0]))


class Tiff3DReader(Reader):
    """``Tiff3DIO``: the spacing is in ``CASE.json`` beside the channels, or 1 mm."""

    def _read_one(self, file: Path) -> tuple[np.ndarray, tuple[float, ...], Any, dict[str, Any]]:
        import tifffile

        array = tifffile.imread(file)
        if array.ndim != 3:
            raise ValueError(f"it has {array.ndim} dimensions")
        beside = file.with_name(file.name[: -len(f"_0000{file.suffix}")] + ".json")
        spacing = [1, 1, 1]
        if beside.is_file():
            spacing = json.loads(beside.read_text(encoding="utf-8"))["spacing"]
        return array[None], tuple(float(s) for s in spacing), None, {"spacing": spacing}

    def write(self, segmentation: np.ndarray, file: Path, image: Image) -> None:
        import tifffile

        tifffile.imwrite(file, data=_small(segmentation), compression="zlib")
        spacing = json.dumps({"spacing": image.properties["spacing"]}, indent=4)
        file.with_suffix(".json").write_text(spacing, encoding="utf-8")


def _small(segmentation: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(segmentation, np.uint8 if segmentation.max(initial=0) < 255 else np.uint16)


def open_reader(name: str) -> Reader:
    """nnU-Net's reader of this name.

    Raises:
        BundleError: when the package that it needs is not installed.
    """
    try:
        if name.startswith("SimpleITK"):
            return SimpleITKReader(name.endswith("WithReorient"))
        if name.startswith("Nibabel"):
            return NibabelReader(name.endswith("WithReorient"))
        return NaturalImageReader() if name == "NaturalImage2DIO" else Tiff3DReader()
    except ImportError as err:
        raise BundleError(f"{name} needs {err.name}; install what requirements.txt of the bundle lists.") from None
