"""The reference segmentation as masks: one per class or region, at any resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor


def unpack_reference(target: Tensor, heads: int, sigmoid: bool) -> tuple[Tensor, Tensor]:
    """The reference of a batch as nnU-Net's data loader gives it -> masks of classes and of what counts.

    Args:
        target: labels (B, 1, *spatial), with every label from ``heads`` on ignored; or regions (B, R, *spatial), with
            one more channel where voxels are ignored.
        heads: number of classes with background, or of regions.
        sigmoid: the target holds regions.

    Returns:
        Classes (B, heads, *spatial) and valid voxels (B, 1, *spatial), both bool; no class where not valid.

    Raises:
        ValueError: for a number of channels that does not fit.
    """
    channels = (heads, heads + 1) if sigmoid else (1,)
    if target.ndim < 3 or target.shape[1] not in channels:
        raise ValueError(f"target {tuple(target.shape)}: expected (B, {' or '.join(map(str, channels))}, *spatial)")
    if sigmoid:
        valid = ~target[:, heads:].bool().any(1, keepdim=True)
        return target[:, :heads].bool() & valid, valid
    labels = torch.arange(heads, device=target.device).view(1, -1, *[1] * (target.ndim - 2))
    classes = target == labels
    return classes, classes.any(1, keepdim=True)


def with_background(regions: Tensor, valid: Tensor) -> Tensor:
    """Regions (B, R, *spatial) with the valid voxels of no region before them: (B, R + 1, *spatial), bool."""
    return torch.cat((valid & ~regions.any(1, keepdim=True), regions), 1)


def resize_regions(regions: Tensor, shape: Sequence[int]) -> Tensor:
    """Nearest-neighbour resizing of masks, by the centres of the voxels.

    Args:
        regions: (B, K, *spatial), bool.
        shape: new spatial shape; larger or smaller along each axis.
    """
    for axis, new in enumerate(shape, start=2):
        old = regions.shape[axis]
        if old != new:
            nearest = ((torch.arange(new, device=regions.device) + 0.5) * (old / new)).long().clamp_max(old - 1)
            regions = regions.index_select(axis, nearest)
    return regions
