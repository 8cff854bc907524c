"""What a network costs at prediction, from its plans: parameters, FLOPs, passes per image; counted, not timed."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils.flop_counter import FlopCounterMode

from nnunet_kd.teachers import build_network

STOCK_TRAINER = "nnUNetTrainer"
STEP_SIZE = 0.5
_HEADER = ("network", "parameters", "GFLOPs/patch", "windows", "passes", "passes mirrored", "GFLOPs/image")
LEGEND = """\
GFLOPs: convolutions and matrix products, 2 per multiply-add, plans' patch, batch size 1, deep supervision off.
windows: of the median image at step size 0.5; passes: windows x folds, mirrored also x 2 per image axis of the patch.
GFLOPs/image: {use}.
FLOPs are counted, not timed: their ratio is not a measured speed-up."""


@dataclass(frozen=True)
class PredictionCost:
    """Cost of predicting the median image of a data set with one network architecture.

    Attributes:
        network: name in the table.
        parameters: of one network.
        flops_per_patch: FLOPs of one forward pass, 2 per multiply-add.
        windows: sliding windows in the median image.
        mirror_axes: axes that nnU-Net mirrors at test time.
        folds: networks that are averaged.
        mirrored: whether it is used with test-time mirroring.
    """

    network: str
    parameters: int
    flops_per_patch: int
    windows: int
    mirror_axes: int
    folds: int = 1
    mirrored: bool = False

    @property
    def all_parameters(self) -> int:
        """Parameters of all folds."""
        return self.parameters * self.folds

    def passes(self, mirrored: bool) -> int:
        """Forward passes per image, over all folds."""
        return self.windows * self.folds * (2**self.mirror_axes if mirrored else 1)

    @property
    def flops_per_image(self) -> int:
        """FLOPs per image the way the network is used."""
        return self.flops_per_patch * self.passes(self.mirrored)


def count_windows(plans_manager: PlansManager, configuration: str, step_size: float = STEP_SIZE) -> int:
    """Sliding windows in the median image; in 2D over all its slices, padded to the patch as nnU-Net does."""
    cm = plans_manager.get_configuration(configuration)
    patch = tuple(cm.patch_size)
    size = tuple(max(round(s), p) for s, p in zip(cm.median_image_size_in_voxels[-len(patch) :], patch, strict=True))
    windows = math.prod(len(s) for s in compute_steps_for_sliding_window(size, patch, step_size))
    slices = round(plans_manager.original_median_shape_after_transp[0]) if len(patch) == 2 else 1
    return windows * slices


def count_parameters(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> int:
    """Parameters of the network that a plans dictionary describes, counted on the built network."""
    network = build_for_planning(PlansManager(plans), configuration, dataset_json, STOCK_TRAINER, "meta")
    return sum(p.numel() for p in network.parameters())


def measure(
    plans_manager: PlansManager,
    configuration: str,
    dataset_json: dict[str, Any],
    network: str,
    trainer: str = STOCK_TRAINER,
    folds: int = 1,
    mirrored: bool = False,
) -> PredictionCost:
    """Builds a network and counts its parameters and the FLOPs of one patch.

    Args:
        plans_manager: plans that describe the network.
        configuration: configuration of these plans.
        dataset_json: gives input channels and classes.
        network: name in the table.
        trainer: trainer whose ``build_network_architecture`` is used.
        folds: networks that are averaged.
        mirrored: whether the network is used with test-time mirroring.
    """
    patch = plans_manager.get_configuration(configuration).patch_size
    try:
        parameters, flops = _count(plans_manager, configuration, dataset_json, trainer, "meta")
    except (NotImplementedError, RuntimeError):  # a network that needs values, not only shapes
        parameters, flops = _count(plans_manager, configuration, dataset_json, trainer, "cpu")
    windows = count_windows(plans_manager, configuration)
    return PredictionCost(network, parameters, flops, windows, len(patch), folds, mirrored)


def build_for_planning(
    plans_manager: PlansManager, configuration: str, dataset_json: dict, trainer: str, device: str
) -> torch.nn.Module:
    """The network of a configuration with random weights, or without values on the device ``meta``."""
    with contextlib.redirect_stdout(None), torch.device(device):
        return build_network(plans_manager, configuration, dataset_json, trainer)


def _count(
    plans_manager: PlansManager, configuration: str, dataset_json: dict, trainer: str, device: str
) -> tuple[int, int]:
    network = build_for_planning(plans_manager, configuration, dataset_json, trainer, device).eval()
    cm = plans_manager.get_configuration(configuration)
    channels = determine_num_input_channels(plans_manager, cm, dataset_json)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, channels, *cm.patch_size, device=device))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


def format_table(references: Sequence[PredictionCost], new: PredictionCost, ratio: str = "teachers / student") -> str:
    """Teachers, their sum where there are several, the student, and their ratio, as aligned text.

    Args:
        references: teachers, or the network of the base plans.
        new: network of the KD plans.
        ratio: name of the last row.
    """
    rows: list[tuple[str, ...]] = [_HEADER, *(_row(c) for c in (*references, new))]
    total = [sum(v) for v in zip(*(_sums(r) for r in references), strict=True)]
    ratios = [f"{a / b:,.1f}x" for a, b in zip(total, _sums(new), strict=True)]
    one_network = ["", ""]
    if len(references) > 1:
        rows.insert(-1, ("all teachers", f"{total[0]:,}", "", "", f"{total[1]:,}", f"{total[2]:,}", _giga(total[3])))
    else:
        one_network[0] = f"{references[0].flops_per_patch / new.flops_per_patch:,.1f}x"
        one_network[1] = f"{references[0].windows / new.windows:,.1f}x"
    rows.append((ratio, ratios[0], *one_network, *ratios[1:]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])] for r in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _sums(cost: PredictionCost) -> tuple[int, int, int, int]:
    return cost.all_parameters, cost.passes(False), cost.passes(True), cost.flops_per_image


def _row(c: PredictionCost) -> tuple[str, ...]:
    name = f"{c.network} x {c.folds} folds" if c.folds > 1 else c.network
    counts = f"{c.windows:,}", f"{c.passes(False):,}", f"{c.passes(True):,}"
    return name, f"{c.all_parameters:,}", _giga(c.flops_per_patch), *counts, _giga(c.flops_per_image)


def _giga(flops: int) -> str:
    return f"{flops / 1e9:,.3f}" if flops < 1e10 else f"{flops / 1e9:,.1f}"
