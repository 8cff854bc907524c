"""Preprocessed cases as they come in: readable, of one shape, and recognisable when they have changed."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.safe_files import load_pickle_file


@dataclass(frozen=True)
class PreprocessedImage:
    """What soft labels must fit to.

    Attributes:
        shape: spatial shape (z, y, x).
        digest: of the image, see :func:`image_digest`.
        labeled: whether the case has a reference segmentation.
    """

    shape: tuple[int, ...]
    digest: str
    labeled: bool


@contextmanager
def reading(folder: str, case: str) -> Iterator[None]:
    """Turns whatever blosc2, numpy or pickle raise for a preprocessed case into one sentence."""
    try:
        yield
    except Exception as err:
        text = " ".join(str(err).split())
        reason = text.rstrip(".") if isinstance(err, UserError) else f"{type(err).__name__}: {text[:200]}"
        raise UserError(
            f"{folder}: the preprocessed files of case {case} cannot be read ({reason}); preprocess this case again."
        ) from err


def load_preprocessed(dataset: nnUNetBaseDataset, case: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    """A case as nnU-Net's dataset loads it: image, segmentation, that of the previous stage, properties.

    Raises:
        UserError: for files that are missing, empty or broken, do not belong together, or hold what could be code.
    """
    with reading(dataset.source_folder, case):
        properties_file = Path(dataset.source_folder) / f"{case}.pkl"
        _check_pickle(properties_file, properties_file.stat().st_mtime_ns)
        image, segmentation, previous_stage, properties = dataset.load_case(case)
        shapes = [tuple(a.shape) for a in (image, segmentation, previous_stage) if a is not None]
        if len(shapes[0]) != 4 or any(s[-3:] != shapes[0][1:] for s in shapes):  # the previous stage's has no channels
            raise ValueError(f"image and segmentations have the shapes {', '.join(map(str, shapes))}")
        if not isinstance(properties, dict):
            raise TypeError("its properties are no dictionary")
    return image, segmentation, previous_stage, properties


@cache
def _check_pickle(file: Path, modified_ns: int) -> None:
    """Refuses, once for each state of a file, one that holds more than data: nnU-Net runs what it holds."""
    load_pickle_file(file)


def image_digest(image: Any) -> str:
    """SHA-256 of an image's shape, compressed size and middle slice, in milliseconds.

    Another image, spacing, crop or normalisation gives another digest; preprocessing the same again does not.

    Args:
        image: (C, z, y, x), a lazy array of nnU-Net's dataset.
    """
    middle = image.shape[1] // 2
    values = np.ascontiguousarray(image[:, middle : middle + 1])
    compressed = image.schunk.cbytes if hasattr(image, "schunk") else None
    digest = hashlib.sha256(f"{tuple(image.shape)} {values.dtype} {compressed}".encode())
    digest.update(values.data)
    return digest.hexdigest()
