"""Probability maps of another program in place of teachers: ``CASE.npz``, as nnU-Net writes them."""

from pathlib import Path

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file

TOLERANCE = 1e-3  # outside [0, 1]; maps may be rounded
SUM_TOLERANCE = 0.02


def reader_of_maps(folder: Path) -> str | None:
    """Class name of the image reader in whose axes the maps lie, from the ``plans.json`` that nnUNetv2_predict leaves
    beside them; None where there is none.
    """
    plans = folder / "plans.json"
    return load_json_file(plans).get("image_reader_writer") if plans.is_file() else None


def read_map(folder: Path, case: str, labels: LabelManager) -> np.ndarray:
    """Probabilities (C, z, y, x) of a case, on its original image.

    Args:
        folder: of the maps.
        case: its name.
        labels: the student's labels or regions.

    Raises:
        UserError: when the map is missing, cannot be read, or holds no probabilities of these labels.
    """
    file, heads = folder / f"{case}.npz", labels.num_segmentation_heads
    try:
        with np.load(file, allow_pickle=False) as content:
            probabilities = content["probabilities"]
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; every case, labeled or not, needs its probability map.") from None
    except Exception as err:
        raise UserError(
            f"{file}: not a probability map as nnU-Net writes them (array 'probabilities'): {err}."
        ) from err
    if probabilities.dtype.kind not in "fiu":
        raise UserError(f"{file}: holds {probabilities.dtype}, expected floating-point numbers.")
    if probabilities.ndim != 4 or probabilities.shape[0] != heads or probabilities.size == 0:
        raise UserError(f"{file}: has shape {probabilities.shape}, expected ({heads}, z, y, x).")
    if not labels.has_regions and np.abs(probabilities.sum(0) - 1).max() > SUM_TOLERANCE:
        raise UserError(
            f"{file}: its classes do not sum to 1 in every voxel; probabilities of all classes are expected."
        )
    if not np.isfinite(probabilities).all() or probabilities.min() < -TOLERANCE or probabilities.max() > 1 + TOLERANCE:
        raise UserError(f"{file}: holds values outside [0, 1]; probabilities are expected, not logits.")
    return probabilities
