"""Where the foreground of unlabeled cases is: nnU-Net's ``class_locations``, from the soft labels' segmentation."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.label_handling.label_handling import LabelManager

Locations = Mapping[int | tuple[int, ...], np.ndarray]


def sample_locations(segmentation: np.ndarray, labels: LabelManager) -> Locations:
    """Voxels of every foreground label or region, sampled as nnU-Net's preprocessing samples them.

    Args:
        segmentation: (z, y, x) label map.
        labels: label definition; with an ignore label, voxels of all labels are sampled too, as nnU-Net's data loader
            asks for.

    Returns:
        Label, or labels of a region -> (N, 4) voxels (0, z, y, x).
    """
    wanted: list[Any] = list(labels.foreground_regions if labels.has_regions else labels.foreground_labels)
    if labels.has_ignore_label:
        wanted.append([-1, *labels.all_labels])
    found = DefaultPreprocessor._sample_foreground_locations(segmentation[None], wanted)
    return {key: np.asarray(voxels, dtype=np.int32).reshape(-1, 4) for key, voxels in found.items()}


def to_bytes(locations: Locations) -> bytes:
    """Compressed form, for the store."""
    buffer = io.BytesIO()
    arrays = {_name(key): np.asarray(voxels[:, 1:], dtype=np.int32) for key, voxels in locations.items()}
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def from_bytes(content: bytes) -> Locations:
    """The inverse of :func:`to_bytes`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {_key(name): np.pad(arrays[name], ((0, 0), (1, 0))) for name in arrays.files}


def _name(key: int | tuple[int, ...]) -> str:
    return str(key) if isinstance(key, int) else "region " + " ".join(map(str, key))


def _key(name: str) -> int | tuple[int, ...]:
    return tuple(map(int, name.split()[1:])) if name.startswith("region") else int(name)
