"""The layout of soft labels in a batch: channels behind the image's, one group for each store.

A group has the foreground classes or the regions, then 1 inside and 0 outside the image. Background is not among them:
it is what the foreground leaves to the mask, before and after any interpolation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_kd.softlabels.encoding import ONE


class ImageWithSoftLabels:
    """Lazy (I + N (S + 1), z, y, x) float32 array: an image, then the group of each of N stores.

    nnU-Net pads patches with zeros where they leave the image, so the channels of ones become masks of valid voxels.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, image: Any, soft_labels: Sequence[Any]):
        """Joins lazy arrays of one case: the image (I, z, y, x), and (S, z, y, x) of each store."""
        self._image, self._soft_labels = image, tuple(soft_labels)
        channels = image.shape[0] + sum(s.shape[0] + 1 for s in self._soft_labels)
        self.shape = (channels, *image.shape[1:])

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        """A patch of all channels; only spatial slicing, as nnU-Net's data loader does it."""
        image = self._image[slices]
        patch = np.empty((self.shape[0], *image.shape[1:]), np.float32)
        patch[: len(image)] = image
        first = len(image)
        for stored in self._soft_labels:
            soft = stored[slices]
            mask = first + len(soft)
            scale = ONE if soft.dtype == np.uint8 else 1
            np.divide(soft, np.float32(scale), out=patch[first:mask], casting="unsafe")
            patch[mask] = 1
            first = mask + 1
        return patch


def unpack(channels: Tensor, sigmoid: bool, stores: int = 1) -> tuple[list[Tensor], Tensor]:
    """Augmented channels of the data loader -> soft labels of every store, and the mask of valid voxels.

    Args:
        channels: (B, N (S + 1), *spatial); interpolation makes values and mask fractional at the image's border.
        sigmoid: the S channels are regions; otherwise background is what they leave to the mask.
        stores: N.

    Returns:
        For every store probabilities (B, C, *spatial), C = S or S + 1, 0 where invalid; mask (B, 1, *spatial), bool.
    """
    groups = [_unpack(group, sigmoid) for group in channels.chunk(stores, 1)]
    return [probabilities for probabilities, _ in groups], groups[0][1]


def _unpack(channels: Tensor, sigmoid: bool) -> tuple[Tensor, Tensor]:
    values, inside = channels[:, :-1].clamp_min(0), channels[:, -1:]
    valid = inside > 0.5
    if sigmoid:
        return (values / inside.clamp_min(0.5)).clamp_max(1) * valid, valid
    foreground = values.sum(1, keepdim=True)
    whole = torch.maximum(inside, foreground).clamp_min(1e-6)
    return torch.cat(((inside - foreground).clamp_min(0), values), 1) * (valid / whole), valid
