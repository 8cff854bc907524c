"""What a model costs at prediction: parameters, FLOPs and MACs, forward passes; counted, not timed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from torch.utils.flop_counter import FlopCounterMode

from nnunet_kd.planning.network import PlannedModel, count_parameters
from nnunet_kd.teachers.loading import NetworkError
from nnunet_kd.teachers.model import TeacherModel, load_checkpoint_file

STEP_SIZE = 0.5


@dataclass(frozen=True)
class ModelCost:
    """Cost of predicting one case with a model.

    FLOPs are those of convolutions (transposed ones included) and matrix products, 2 for each multiply-add (MAC);
    normalisation, nonlinearities and resampling are left out. Nothing here is timed.

    Attributes:
        name: of the model.
        networks: folds of all model folders.
        parameters: of all networks together.
        flops_per_patch: FLOPs of one forward pass of one network, batch size 1, deep supervision off.
        macs_per_patch: multiply-adds of the same, half the FLOPs.
        windows: sliding windows of a case at nnU-Net's step size 0.5.
        mirrors: mirrored versions of a window: 2 to the power of the mirrored axes, 1 without mirroring.
        passes_per_case: forward passes: windows x mirrors x networks, summed over model folders.
        flops_per_case: FLOPs of all passes.
        macs_per_case: multiply-adds of all passes.
        patch_size: voxels (z, y, x) or (y, x).
        input_channels: of the network; the one-hot previous stage of a cascade counts.
        configuration: nnU-Net's name.

    Of several model folders ``flops_per_patch``, ``macs_per_patch``, ``windows``, ``mirrors``, ``patch_size``,
    ``input_channels`` and ``configuration`` are None where the folders differ.
    """

    name: str
    networks: int
    parameters: int
    flops_per_patch: int | None
    macs_per_patch: int | None
    windows: int | None
    mirrors: int | None
    passes_per_case: int
    flops_per_case: int
    macs_per_case: int
    patch_size: tuple[int, ...] | None
    input_channels: int | None
    configuration: str | None


_SUMS = ("networks", "parameters", "passes_per_case", "flops_per_case", "macs_per_case")


def measure(
    model: PlannedModel,
    name: str,
    networks: int = 1,
    mirrored_axes: int = 0,
    image_shape: Sequence[int] | None = None,
) -> ModelCost:
    """Builds a network and counts what predicting a case costs.

    Args:
        model: what is built.
        name: of the model.
        networks: folds that predict together.
        mirrored_axes: axes of test-time mirroring.
        image_shape: voxels (z, y, x) of the preprocessed case; None for the data set's median image.
    """
    try:
        parameters, flops = _count(model, "meta")
    except (NetworkError, NotImplementedError, RuntimeError):  # a network that needs values, not only shapes
        parameters, flops = _count(model, "cpu")
    windows, mirrors = count_windows(model, image_shape=image_shape), 2**mirrored_axes
    passes = windows * mirrors * networks
    return ModelCost(
        name=name,
        networks=networks,
        parameters=parameters * networks,
        flops_per_patch=flops,
        macs_per_patch=flops // 2,
        windows=windows,
        mirrors=mirrors,
        passes_per_case=passes,
        flops_per_case=flops * passes,
        macs_per_case=flops * passes // 2,
        patch_size=model.patch,
        input_channels=model.channels,
        configuration=model.configuration,
    )


def _count(model: PlannedModel, device: str) -> tuple[int, int]:
    network = model.build(device).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, model.channels, *model.patch, device=device))
    return count_parameters(network), counter.get_total_flops()


def count_windows(model: PlannedModel, step_size: float = STEP_SIZE, image_shape: Sequence[int] | None = None) -> int:
    """Sliding windows in an image; in 2D over all its slices, padded to the patch as nnU-Net does.

    Args:
        model: gives the patch.
        step_size: of the windows, as a fraction of the patch.
        image_shape: voxels (z, y, x) of the preprocessed image; None for the data set's median image.
    """
    if image_shape is None:
        plane = model.manager.median_image_size_in_voxels
        slices = model.plans.original_median_shape_after_transp[0]
    else:
        plane, slices = image_shape, image_shape[0]
    patch = model.patch
    size = tuple(max(round(s), p) for s, p in zip(plane[-len(patch) :], patch, strict=True))
    windows = math.prod(len(s) for s in compute_steps_for_sliding_window(size, patch, step_size))
    return windows * round(slices) if len(patch) == 2 else windows


def count_models(
    name: str,
    models: Sequence[TeacherModel],
    mirroring: bool | None = None,
    image_shape: Sequence[int] | None = None,
) -> ModelCost:
    """Counts the cost of one or more trained model folders, which predict a case one after another.

    Args:
        name: of the model.
        models: its folders.
        mirroring: False for none, as ``nnUNetv2_predict --disable_tta``; else over the axes that the checkpoint allows.
        image_shape: voxels (z, y, x) of the preprocessed case; None for the median image of the data set.

    Raises:
        UserError: when a checkpoint is unreadable.
    """
    costs = []
    for model in models:
        checkpoint = load_checkpoint_file(model.checkpoint_file(model.folds[0]))  # nnU-Net, too, asks the first fold
        axes = () if mirroring is False else checkpoint.get("inference_allowed_mirroring_axes") or ()
        planned = replace(PlannedModel.of(model), trainer=str(checkpoint["trainer_name"]))
        costs.append(measure(planned, name, len(model.folds), len(axes), image_shape))
    first = vars(costs[0])
    merged: dict[str, Any] = {k: v if all(vars(c)[k] == v for c in costs) else None for k, v in first.items()}
    return ModelCost(**merged | {key: sum(vars(c)[key] for c in costs) for key in _SUMS})
