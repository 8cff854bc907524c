"""A dataset whose images carry their soft labels as further channels, read lazily."""

from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_kd.softlabels.encoding import ONE
from nnunet_kd.softlabels.store import SoftLabelStore


class ImageWithSoftLabels:
    """Lazy (I + S + 1, z, y, x) float32 array: image, stored soft labels, and one channel of ones.

    nnU-Net pads patches with zeros where they leave the image, so the channel of ones becomes the mask of valid voxels.
    Background is not among the channels: it is what the foreground leaves to the mask, before and after any
    interpolation.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, image: Any, soft_labels: Any):
        """Joins two lazy arrays (I, z, y, x) and (S, z, y, x) of one case."""
        self._image, self._soft_labels = image, soft_labels
        self.shape = (image.shape[0] + soft_labels.shape[0] + 1, *image.shape[1:])

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        """A patch of all channels; only spatial slicing, as nnU-Net's data loader does it."""
        image, soft = self._image[slices], self._soft_labels[slices]
        patch = np.empty((self.shape[0], *image.shape[1:]), np.float32)
        patch[: len(image)] = image
        scale = ONE if soft.dtype == np.uint8 else 1
        np.divide(soft, np.float32(scale), out=patch[len(image) : -1], casting="unsafe")
        patch[-1] = 1
        return patch


class SoftLabelDataset:
    """nnU-Net's dataset with soft labels appended to every image."""

    def __init__(self, dataset: nnUNetBaseDataset, store: SoftLabelStore):
        """Wraps ``dataset``, all of whose cases must be in ``store``."""
        self.dataset, self.store = dataset, store
        self.identifiers = dataset.identifiers

    def load_case(self, identifier: str) -> tuple[ImageWithSoftLabels, Any, Any, dict]:
        """As nnU-Net's dataset: image with soft labels, segmentation, that of the previous stage, properties."""
        image, segmentation, previous_stage, properties = self.dataset.load_case(identifier)
        return ImageWithSoftLabels(image, self.store.read(identifier)), segmentation, previous_stage, properties
