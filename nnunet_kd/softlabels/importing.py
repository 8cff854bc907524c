"""Probability maps from any framework as a store: ``nnUNetv2_kd softlabels --from FOLDER``."""

from pathlib import Path

from nnunet_kd.config import KDConfig
from nnunet_kd.errors import UserError
from nnunet_kd.files import load_json_file, write_json


def record_import(plans_file: Path, folder: str) -> KDConfig:
    """Writes ``kd.ensemble.from_folder`` into KD plans, so that the trainer finds the imported store.

    Args:
        plans_file: plans with a ``"kd"`` block.
        folder: folder of ``CASE.npz`` files.

    Raises:
        UserError: when there are no maps in the folder, or the plans have no ``"kd"`` block.
    """
    source = Path(folder).expanduser().resolve()
    if not any(source.glob("*.npz")):
        raise UserError(f"--from {folder}: no .npz files there; nnU-Net writes them with --save_probabilities.")
    plans = load_json_file(plans_file)
    if "kd" not in plans:
        raise UserError(
            f'{plans_file}: has no "kd" block to note the import in; make KD plans first: nnUNetv2_kd plan.'
        )
    plans["kd"].setdefault("ensemble", {})["from_folder"] = str(source)
    kd = KDConfig.from_plans(plans)
    write_json(plans_file, plans)
    return kd
