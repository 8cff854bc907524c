"""Model folders as nnU-Net leaves them, with small random networks: nothing is trained."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_kd.teachers.loading import build_network
from tests.unit.toy_dataset import plans_of

TRAINER = "nnUNetTrainer"
FAST = {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False}
FAST_RESAMPLING = {
    "resampling_fn_data": "resample_torch_fornnunet",
    "resampling_fn_data_kwargs": FAST,
    "resampling_fn_probabilities": "resample_torch_fornnunet",
    "resampling_fn_probabilities_kwargs": FAST,
}


def dataset_json(labels: dict[str, Any] | None = None, channels: int = 1, **more: Any) -> dict[str, Any]:
    """A ``dataset.json``; two foreground classes unless said otherwise."""
    return {
        "channel_names": {str(c): f"MRI{c}" for c in range(channels)},
        "labels": labels or {"background": 0, "anterior": 1, "posterior": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "licence": "CC0",
    } | more


def make_model(
    root: Path,
    configuration: str = "3d_fullres",
    dataset: dict[str, Any] | None = None,
    folds: tuple[int | str, ...] = (0,),
    mirror_axes: tuple[int, ...] | None = None,
    plans_changes: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A model folder below ``root``.

    Args:
        root: stands for ``nnUNet_results/DatasetXXX_NAME``.
        configuration: ``2d`` or ``3d_fullres``.
        dataset: content of ``dataset.json``.
        folds: each has weights of its own.
        mirror_axes: that the checkpoints allow.
        plans_changes: keys of the plans.
        changes: keys of the configuration.
    """
    dataset = dataset or dataset_json()
    channels = len(dataset["channel_names"])
    plans = plans_of(name="Plans")
    plans["configurations"] = {configuration: deepcopy(plans["configurations"][configuration])}
    plans["configurations"][configuration] |= {
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
    } | changes
    intensities = {"mean": 80.0, "std": 60.0, "percentile_00_5": 5.0, "percentile_99_5": 300.0}
    plans["foreground_intensity_properties_per_channel"] = {str(c): intensities for c in range(channels)}
    plans |= plans_changes or {}
    folder = root / f"{TRAINER}__Plans__{configuration}"
    for fold in folds:
        torch.manual_seed(17 + (fold if isinstance(fold, int) else 99))
        network = build_network(PlansManager(plans), configuration, dataset, TRAINER)
        weights = network.state_dict()
        for key in weights:  # logits as far apart as those of a trained network
            if "seg_layers" in key:
                weights[key] *= 10
        (folder / f"fold_{fold}").mkdir(parents=True)
        checkpoint = {
            "network_weights": weights,
            "trainer_name": TRAINER,
            "init_args": {"configuration": configuration},
            "inference_allowed_mirroring_axes": mirror_axes,
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def write_validation(fold: Path, dice: float) -> None:
    """The ``validation/summary.json`` of a fold that has validated one case."""
    row = {"prediction_file": "case.nii.gz", "metrics": {"1": {"Dice": dice}}}
    (fold / "validation").mkdir(parents=True, exist_ok=True)
    content = {"foreground_mean": {"Dice": dice}, "metric_per_case": [row]}
    (fold / "validation" / "summary.json").write_text(json.dumps(content))
