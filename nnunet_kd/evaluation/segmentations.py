"""Segmentation files and their labels, as nnU-Net reads them, with messages for users.

Workers import this module: nothing here may import torch when it is loaded.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_kd.data.read_images import ImageError, read_labels
from nnunet_kd.evaluation.metrics import Label
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file

GEOMETRY_TOLERANCE = 1e-3  # mm, and for cosines of directions


@dataclass(frozen=True)
class LabelDefinition:
    """Labels of a ``dataset.json``: its regions where it has some, else its foreground labels.

    Attributes:
        labels: in the order of ``dataset.json``.
        ignore_label: voxels that have it in the reference do not count; None where there is none.
        file_ending: of all segmentations, with its dot.
        dataset_json: the whole file, by which nnU-Net chooses its reader.
    """

    labels: tuple[Label, ...]
    ignore_label: int | None
    file_ending: str
    dataset_json: Mapping[str, Any]

    @classmethod
    def load(cls, file: Path) -> "LabelDefinition":
        """Reads a ``dataset.json``.

        Raises:
            UserError: when it is missing, or nnU-Net does not accept its labels.
        """
        from nnunetv2.evaluation.evaluate_predictions import label_or_region_to_key
        from nnunetv2.utilities.label_handling.label_handling import LabelManager

        from nnunet_kd.utilities.nnunet_files import check_label_values

        content = load_json_file(file)
        if missing := [key for key in ("labels", "file_ending") if key not in content]:
            raise UserError(f"{file}: has no {' and no '.join(missing)}; give nnU-Net's dataset.json with -djfile.")
        check_label_values(content["labels"], str(file))
        try:
            manager = LabelManager(content["labels"], content.get("regions_class_order"))
            wanted = manager.foreground_regions if manager.has_regions else manager.foreground_labels
            names = {_values(v): name for name, v in content["labels"].items() if name != "ignore"}
            labels = [
                Label(label_or_region_to_key(tuple(map(int, w)) if isinstance(w, tuple) else int(w)), names[v], v)
                for w, v in ((w, _values(w)) for w in wanted)
            ]
            labels.sort(key=lambda label: list(names.values()).index(label.name))
        except (AssertionError, RuntimeError, AttributeError, KeyError, TypeError, ValueError) as err:
            raise UserError(f"{file}: nnU-Net does not accept its labels ({_one_line(err)}).") from err
        return cls(tuple(labels), manager.ignore_label, str(content["file_ending"]), content)

    def known_values(self) -> set[int]:
        """Every label that a file may hold."""
        ignored = set() if self.ignore_label is None else {self.ignore_label}
        return {0, *(v for label in self.labels for v in label.values)} | ignored


@dataclass(frozen=True)
class Segmentation:
    """One segmentation.

    Attributes:
        values: integer labels, (y, x) for 2D images and single slices, else (z, y, x).
        spacing_mm: voxel size along each axis of ``values``.
        voxel_ml: volume of a voxel; NaN for 2D files, which do not know their thickness, and without physical units.
        properties: nnU-Net's, with the position in space.
        physical: whether the file knows its spacing; else ``spacing_mm`` is in pixels, 1 along each axis.
    """

    values: np.ndarray
    spacing_mm: tuple[float, ...]
    voxel_ml: float
    properties: Mapping[str, Any]
    physical: bool = True


def find_reader(definition: LabelDefinition, examples: Sequence[Path]) -> type:
    """nnU-Net's reader for these files: the first one that can read one of them.

    Raises:
        UserError: when nnU-Net has none.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    for example in examples:
        # nnU-Net prints the traceback of every reader that fails
        with contextlib.suppress(RuntimeError), contextlib.redirect_stderr(io.StringIO()):
            return determine_reader_writer_from_dataset_json(definition.dataset_json, str(example), verbose=False)
    raise UserError(
        f"{examples[0].parent}: nnU-Net has no reader for {definition.file_ending} files that can read any of these "
        f"{len(examples)}."
    )


def read_segmentation(file: Path, reader: type) -> Segmentation:
    """Reads a segmentation with one of nnU-Net's readers.

    Raises:
        UserError: when it cannot be read, has several channels, or values that are not labels.
    """
    try:
        image, properties = read_labels(reader(), file)
    except ImageError as err:
        raise UserError(f"{file}: {err}") from err
    if image.shape[0] != 1:
        raise UserError(f"{file} has {image.shape[0]} channels, a segmentation has one")
    low, high = image.min(), image.max()
    labels = image[0].astype(np.uint8 if high < 256 else np.int32) if low >= 0 and high < 2**31 else None
    if labels is None or not np.array_equal(labels, image[0]):
        raise UserError(f"{file} has values that are not labels (whole numbers from 0)")
    spacing = [float(s) for s in properties["spacing"]]
    voxel_ml = float(np.prod(spacing)) / 1000
    if labels.shape[0] == 1:
        # nnU-Net gives 2D files a first axis of 999 times their largest spacing
        voxel_ml = float("nan") if spacing[0] >= 998 * max(spacing[1:]) else voxel_ml
        labels, spacing = labels[0], spacing[1:]
    # PNG and other natural images, and TIFF without a spacing file: nnU-Net knows no position and says 1
    physical = set(properties) != {"spacing"} or any(s != 1 for s in spacing)
    return Segmentation(labels, tuple(spacing), voxel_ml if physical else float("nan"), properties, physical)


def geometry_difference(prediction: Segmentation, reference: Segmentation) -> str | None:
    """What differs between two segmentations in shape, spacing or position, as a phrase; None when nothing does."""
    if prediction.values.shape != reference.values.shape:
        return f"shape {prediction.values.shape} against {reference.values.shape}"
    theirs = dict(_leaves(reference.properties))
    for path, value in _leaves(prediction.properties):
        if path not in theirs or not np.allclose(value, theirs[path], rtol=0, atol=GEOMETRY_TOLERANCE):
            mine, other = (np.round(v, 4).tolist() for v in (value, theirs.get(path, np.array([]))))
            return f"{path[-1]} {mine} against {other}"
    return None


def _leaves(properties: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Names and numbers of nnU-Net's properties, which are nested differently by every reader."""
    for name, value in properties.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), np.asarray(value, dtype=float)


def _values(label: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in label) if isinstance(label, (tuple, list)) else (int(label),)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[-160:] or type(error).__name__
