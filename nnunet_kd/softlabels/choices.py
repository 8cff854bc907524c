"""Choices made at ``nnUNetv2_kd softlabels`` that the trainer has to know: they are written into the KD plans."""

from pathlib import Path
from typing import Any

from nnunet_kd.config import KDConfig
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.files import load_json_file, write_json


def load_kd_plans(plans_file: Path) -> dict[str, Any]:
    """Plans that a choice can be written into.

    Raises:
        UserError: when they have no ``"kd"`` block, or a bad one.
    """
    plans = load_json_file(plans_file)
    if "kd" not in plans:
        raise UserError(f'{plans_file}: has no "kd" block to note this in; make KD plans first: nnUNetv2_kd plan.')
    KDConfig.from_plans(plans)
    return plans


def record_choice(plans_file: Path, from_folder: str | None, combine: str | None) -> None:
    """Writes ``kd.ensemble.from_folder`` and ``combine`` into KD plans, so that the trainer finds the store.

    Args:
        plans_file: plans with a ``"kd"`` block.
        from_folder: folder of ``CASE.npz`` probability maps; None leaves the plans' as it is.
        combine: ``probabilities`` or ``logits``; None leaves the plans' as it is.

    Raises:
        UserError: when there are no maps in the folder, or the plans have no ``"kd"`` block.
    """
    plans = load_kd_plans(plans_file)
    ensemble = plans["kd"].setdefault("ensemble", {})
    if from_folder is not None:
        source = Path(from_folder).expanduser().resolve()
        if not any(source.glob("*.npz")):
            raise UserError(
                f"--from {from_folder}: no .npz files there; nnU-Net writes them with --save_probabilities."
            )
        ensemble["from_folder"] = str(source)
    if combine is not None:
        ensemble["combine"] = combine
    KDConfig.from_plans(plans)
    write_json(plans_file, plans)
