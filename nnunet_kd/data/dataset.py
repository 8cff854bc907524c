"""A dataset whose images carry their soft labels as further channels, read lazily."""

from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_kd.softlabels.encoding import ONE
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.preprocessed import load_preprocessed


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
        self.identifiers, self.source_folder = dataset.identifiers, dataset.source_folder

    def load_case(self, identifier: str) -> tuple[ImageWithSoftLabels, Any, Any, dict]:
        """As nnU-Net's dataset: image with soft labels, segmentation, that of the previous stage, properties."""
        image, segmentation, previous_stage, properties = load_preprocessed(self.dataset, identifier)
        return _join(image, self.store, identifier), segmentation, previous_stage, properties


class UnlabeledDataset:
    """Preprocessed unlabeled cases as nnU-Net's data loader takes them.

    With a store, images carry their soft labels and the foreground is that of the soft labels' segmentation. Without,
    no voxel is known to be foreground, and nnU-Net's data loader crops at random.
    """

    def __init__(self, space: StudentSpace, store: SoftLabelStore | None):
        """Wraps the unlabeled cases of ``space``, all of which must be in ``store``."""
        self.space, self.store = space, store
        self.identifiers = list(space.unlabeled_cases)

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict]:
        """Image, mask of nonzero voxels in place of a segmentation, nothing, properties."""
        image, nonzero, _, properties = self.space.load_case(identifier)
        if self.store is None:
            return image, nonzero, None, {**properties, "class_locations": _Nowhere()}
        properties = {**properties, "class_locations": self.store.locations(identifier)}
        return _join(image, self.store, identifier), nonzero, None, properties


def _join(image: Any, store: SoftLabelStore, case: str) -> ImageWithSoftLabels:
    """Image and soft labels of a case.

    Raises:
        UserError: when their shapes differ.
    """
    soft_labels = store.read(case)
    if tuple(image.shape[1:]) != tuple(soft_labels.shape[1:]):
        raise UserError(
            f"{store.file(case)}: has shape {tuple(soft_labels.shape[1:])}, the preprocessed image has "
            f"{tuple(image.shape[1:])}; run nnUNetv2_kd softlabels again."
        )
    return ImageWithSoftLabels(image, soft_labels)


class _Nowhere(dict):
    """Class locations of a case in which no voxel is known to belong to any class."""

    def __missing__(self, key: Any) -> list:
        return []
