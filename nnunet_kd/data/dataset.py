"""Datasets whose images carry their soft labels as further channels, read lazily."""

from collections.abc import Sequence
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_kd.softlabels.channels import ImageWithSoftLabels
from nnunet_kd.softlabels.store import SoftLabelStore
from nnunet_kd.teachers.student_data import StudentSpace
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.preprocessed import load_preprocessed


class SoftLabelDataset:
    """nnU-Net's dataset with soft labels appended to every image."""

    def __init__(self, dataset: nnUNetBaseDataset, stores: Sequence[SoftLabelStore]):
        """Wraps ``dataset``, all of whose cases must be in each of ``stores``."""
        self.dataset, self.stores = dataset, tuple(stores)
        self.identifiers, self.source_folder = dataset.identifiers, dataset.source_folder

    def load_case(self, identifier: str) -> tuple[ImageWithSoftLabels, Any, Any, dict]:
        """As nnU-Net's dataset: image with soft labels, segmentation, that of the previous stage, properties."""
        image, segmentation, previous_stage, properties = load_preprocessed(self.dataset, identifier)
        return _join(image, self.stores, identifier), segmentation, previous_stage, properties


class UnlabeledDataset:
    """Preprocessed unlabeled cases as nnU-Net's data loader takes them.

    With stores, images carry their soft labels and the foreground is that of the first one's segmentation. Without, no
    voxel is known to be foreground, and nnU-Net's data loader crops at random.
    """

    def __init__(self, space: StudentSpace, stores: Sequence[SoftLabelStore] = ()):
        """Wraps the unlabeled cases of ``space``, all of which must be in each of ``stores``."""
        self.space, self.stores = space, tuple(stores)
        self.identifiers = list(space.unlabeled_cases)

    def load_case(self, identifier: str) -> tuple[Any, Any, None, dict]:
        """Image, mask of nonzero voxels in place of a segmentation, nothing, properties."""
        image, nonzero, _, properties = self.space.load_case(identifier)
        if not self.stores:
            return image, nonzero, None, {**properties, "class_locations": _NoLocations()}
        properties = {**properties, "class_locations": self.stores[0].locations(identifier)}
        return _join(image, self.stores, identifier), nonzero, None, properties


def _join(image: Any, stores: Sequence[SoftLabelStore], case: str) -> ImageWithSoftLabels:
    """Image and soft labels of a case.

    Raises:
        UserError: when their shapes differ.
    """
    soft_labels = []
    for store in stores:
        soft_labels.append(store.read(case))
        if tuple(image.shape[1:]) != tuple(soft_labels[-1].shape[1:]):
            raise UserError(
                f"{store.file(case)}: has shape {tuple(soft_labels[-1].shape[1:])}, the preprocessed image has "
                f"{tuple(image.shape[1:])}; run nnUNetv2_kd softlabels again."
            )
    return ImageWithSoftLabels(image, soft_labels)


class _NoLocations(dict):
    """Class locations of a case in which no voxel is known to belong to any class."""

    def __missing__(self, key: Any) -> list:
        return []
