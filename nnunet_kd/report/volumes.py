"""Images, segmentations and probabilities of a case, turned so that pictures show them as radiologists look at them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_kd.data.read_images import ImageError, read_images
from nnunet_kd.evaluation.segmentations import LabelDefinition, find_reader, read_segmentation
from nnunet_kd.utilities.errors import UserError

PATIENT_PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Geometry:
    """How a stored array lies in the patient.

    Attributes:
        spacing_mm: of the stored array's axes (z, y, x).
        order: stored axis that becomes each displayed axis.
        reverse: displayed axes that run the other way.
        planes: name of the plane perpendicular to each displayed axis.
    """

    spacing_mm: tuple[float, ...]
    order: tuple[int, int, int]
    reverse: tuple[int, ...]
    planes: tuple[str, str, str]

    def turn(self, array: np.ndarray) -> np.ndarray:
        """The stored array (..., z, y, x) with its last three axes as displayed."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + i for i in self.order))
        return np.flip(turned, tuple(lead + i for i in self.reverse))

    @property
    def displayed_spacing_mm(self) -> tuple[float, ...]:
        """Spacing of the displayed axes."""
        return tuple(self.spacing_mm[i] for i in self.order)

    @classmethod
    def of(cls, properties: Mapping[str, Any]) -> "Geometry":
        """Geometry from the properties that nnU-Net's readers give.

        With a direction (SimpleITK's readers), the displayed axes run towards the patient's head, back and left;
        otherwise the array is shown as it is stored.
        """
        spacing_mm = tuple(float(s) for s in properties["spacing"])
        direction = properties.get("sitk_stuff", {}).get("direction", ())
        if len(direction) != 9:
            return cls(spacing_mm, (0, 1, 2), (), ("plane 1", "plane 2", "plane 3"))
        # rows: patient axes left, back, head; columns: array axes z, y, x
        cosines = np.asarray(direction, dtype=float).reshape(3, 3)[:, ::-1]
        patient = cosines[::-1]  # head, back, left
        order = max(itertools.permutations(range(3)), key=lambda p: sum(abs(patient[i, p[i]]) for i in range(3)))
        reverse = tuple(i for i in range(3) if patient[i, order[i]] < 0)
        return cls(spacing_mm, (order[0], order[1], order[2]), reverse, PATIENT_PLANES)


@dataclass(frozen=True)
class Volumes:
    """Reads the files of a data set with nnU-Net's own reader.

    Attributes:
        definition: labels and file ending of the data set.
        references: folder of the reference segmentations.
        images: folder of the images, or None.
    """

    definition: LabelDefinition
    references: Path
    images: Path | None = None

    @cached_property
    def reader(self) -> type:
        """nnU-Net's reader for these files."""
        return find_reader(self.definition, sorted(self.references.glob(f"*{self.definition.file_ending}"))[:3])

    @cached_property
    def label_manager(self) -> LabelManager:
        """nnU-Net's view of the labels: the channels of probabilities."""
        content = self.definition.dataset_json
        return LabelManager(dict(content["labels"]), content.get("regions_class_order"))

    @property
    def channels(self) -> list[int] | list[tuple[int, ...]]:
        """Foreground labels, or regions, in the order of the channels of probabilities."""
        manager = self.label_manager
        return manager.foreground_regions if manager.has_regions else manager.foreground_labels

    def classes(self, names: Sequence[str]) -> list[tuple[int, ...]]:
        """Values of the labels or regions of these names."""
        values = {label.name: label.values for label in self.definition.labels}
        return [values[name] for name in names]

    def segmentation(self, folder: Path, case: str) -> tuple[np.ndarray, Geometry]:
        """Stored segmentation (z, y, x) of a case and its geometry."""
        found = read_segmentation(folder / f"{case}{self.definition.file_ending}", self.reader)
        values = found.values if found.values.ndim == 3 else found.values[None]
        return values, Geometry.of(found.properties)

    def image(self, case: str) -> np.ndarray | None:
        """First channel (z, y, x) of a case's image, or None where there is none.

        Raises:
            UserError: when the file cannot be read.
        """
        if self.images is None:
            return None
        names = (f"{case}{channel}{self.definition.file_ending}" for channel in ("_0000", ""))
        file = next((self.images / name for name in names if (self.images / name).is_file()), None)
        if file is None:
            return None
        try:
            return read_images(self.reader(), [file])[0][0]
        except ImageError as err:
            raise UserError(f"{file}: {err}.") from err

    def probabilities(self, folder: Path, case: str) -> np.ndarray | None:
        """What ``nnUNetv2_predict --save_probabilities`` wrote: float (classes or regions, z, y, x), or None.

        Raises:
            UserError: when the file cannot be read, or does not have the labels' channels.
        """
        file = folder / f"{case}.npz"
        if not file.is_file():
            return None
        try:
            with np.load(file, allow_pickle=False) as content:
                array = content["probabilities"]
        except Exception as err:  # damaged archives have errors of many kinds
            raise UserError(f"{file}: not nnU-Net's probabilities ({err}); remove it or predict again.") from err
        heads = self.label_manager.num_segmentation_heads
        if array.ndim != 4 or array.shape[0] != heads or not array.size:
            raise UserError(f"{file}: has shape {array.shape}, expected {heads} channels of 3D; predict again.")
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all() or array.min() < 0 or array.max() > 1.01:
            raise UserError(f"{file}: its values are not probabilities from 0 to 1; predict again.")
        return array


def plane_axes(shape: Sequence[int]) -> list[int]:
    """Displayed axes worth cutting: all three, or the first alone for a 2D image."""
    return [0] if shape[0] == 1 else [0, 1, 2]


def origin_of(axis: int) -> Literal["upper", "lower"]:
    """Where matplotlib puts the first row of a plane: the head is up, and so is the front in axial planes."""
    return "upper" if axis == 0 else "lower"
