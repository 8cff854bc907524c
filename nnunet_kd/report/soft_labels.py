"""How unsure the teachers were: entropy of stored soft labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from nnunet_kd.report.calibration import entropy
from nnunet_kd.report.overlays import draw_entropy
from nnunet_kd.softlabels.encoding import decode
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.utilities.errors import UserError

MOST_CASES = 40


@dataclass(frozen=True)
class SoftLabelEntropy:
    """Entropy of the soft labels in a store.

    Attributes:
        mean: mean entropy of each case that was read, over voxels on which the teachers are not sure of background.
        total: cases in the store.
        figures: pictures of the case with the lowest, median and highest mean, by kind and case.
    """

    mean: dict[str, float]
    total: int
    figures: dict[tuple[str, str], Figure]


def soft_label_entropy(folder: Path) -> SoftLabelEntropy:
    """Reads up to 40 cases, evenly spread, of a store.

    Args:
        folder: ``kd_softlabels/<ensemble_id>/<data_identifier>``.

    Raises:
        UserError: when there is no store, or it is empty.
    """
    store = SoftLabelStore.open(folder)
    cases = store.cases()
    if not cases:
        raise UserError(f"{folder}: the store holds no case yet; finish nnUNetv2_kd softlabels.")
    spread = np.linspace(0, len(cases) - 1, min(len(cases), MOST_CASES)).round().astype(int)
    with tqdm(spread, desc="entropy of soft labels", unit="case") as bar:  # closed before an error is printed
        mean = {cases[i]: _mean(store, cases[i]) for i in bar}
    ordered = sorted(mean, key=lambda case: mean[case])
    chosen = {"lowest": ordered[0], "median": ordered[(len(ordered) - 1) // 2], "highest": ordered[-1]}
    figures = {(kind, case): draw_entropy(_entropy(store, case)[0]) for kind, case in chosen.items()}
    return SoftLabelEntropy(mean, len(cases), figures)


def _mean(store: SoftLabelStore, case: str) -> float:
    values, unsure = _entropy(store, case)
    return float(values[unsure].mean()) if unsure.any() else 0.0


def _entropy(store: SoftLabelStore, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Entropy (z, y, x), and where some foreground has a probability of 1 % or more."""
    probabilities = decode(store.read(case)[:], store.regions)
    foreground = probabilities if store.regions else probabilities[1:]
    return entropy(probabilities, store.regions), np.max(foreground, axis=0) >= 0.01
