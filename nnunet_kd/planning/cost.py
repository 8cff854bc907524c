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

from nnunet_kd.teachers.loading import NetworkError, build_network
from nnunet_kd.utilities.errors import UserError

STOCK_TRAINER = "nnUNetTrainer"
STEP_SIZE = 0.5
MOST_PARAMETERS = 10**10
_HEADER = ("network", "parameters", "GFLOPs/patch", "windows", "passes", "passes mirrored", "GFLOPs/image")
LEGEND = """\
GFLOPs: convolutions and matrix products, 2 per multiply-add, plans' patch, batch size 1, deep supervision off.
windows: of the median image at step size 0.5; passes: windows x folds, mirrored also x 2 per image axis of the patch.
GFLOPs/image: {use}.
FLOPs are counted, not timed: their ratio is not a measured speed-up."""


@dataclass(frozen=True)
class PredictionCost:
    """Cost of predicting an image, by default the data set's median one, with one network architecture.

    Attributes:
        network: name in the table.
        parameters: of one network.
        flops_per_patch: FLOPs of one forward pass, 2 per multiply-add.
        windows: sliding windows in the image.
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


def count_windows(
    plans_manager: PlansManager,
    configuration: str,
    step_size: float = STEP_SIZE,
    image_shape: Sequence[int] | None = None,
) -> int:
    """Sliding windows in an image; in 2D over all its slices, padded to the patch as nnU-Net does.

    Args:
        plans_manager: plans of the configuration.
        configuration: its name.
        step_size: of the windows, as a fraction of the patch.
        image_shape: voxels (z, y, x) of the preprocessed image; None for the data set's median image.
    """
    cm = plans_manager.get_configuration(configuration)
    patch = tuple(cm.patch_size)
    if image_shape is None:
        plane, slices = cm.median_image_size_in_voxels, plans_manager.original_median_shape_after_transp[0]
    else:
        plane, slices = image_shape, image_shape[0]
    size = tuple(max(round(s), p) for s, p in zip(plane[-len(patch) :], patch, strict=True))
    windows = math.prod(len(s) for s in compute_steps_for_sliding_window(size, patch, step_size))
    return windows * round(slices) if len(patch) == 2 else windows


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
    mirror_axes: int | None = None,
    image_shape: Sequence[int] | None = None,
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
        mirror_axes: how many axes it mirrors; None for all of the patch.
        image_shape: voxels (z, y, x) of the preprocessed image; None for the data set's median image.
    """
    patch = plans_manager.get_configuration(configuration).patch_size
    try:
        parameters, flops = _count(plans_manager, configuration, dataset_json, trainer, "meta")
    except (NetworkError, NotImplementedError, RuntimeError):  # a network that needs values, not only shapes
        parameters, flops = _count(plans_manager, configuration, dataset_json, trainer, "cpu")
    windows = count_windows(plans_manager, configuration, image_shape=image_shape)
    axes = len(patch) if mirror_axes is None else mirror_axes
    return PredictionCost(network, parameters, flops, windows, axes, folds, mirrored)


def build_for_planning(
    plans_manager: PlansManager, configuration: str, dataset_json: dict, trainer: str, device: str
) -> torch.nn.Module:
    """The network of a configuration with random weights, or without values on the device ``meta``.

    Raises:
        UserError: when it cannot be built, or has more parameters than anybody could train.
    """
    if device != "meta":  # values that no memory holds are not asked for
        with contextlib.suppress(NetworkError, NotImplementedError, RuntimeError):
            build_for_planning(plans_manager, configuration, dataset_json, trainer, "meta")
    with contextlib.redirect_stdout(None), torch.device(device):
        network = build_network(plans_manager, configuration, dataset_json, trainer)
    if (parameters := sum(p.numel() for p in network.parameters())) > MOST_PARAMETERS:
        raise UserError(
            f"{plans_manager.plans_name}, {configuration}: the network would have {parameters:.3g} parameters, more "
            f"than {MOST_PARAMETERS:.0e}; make it narrower."
        )
    return network


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
