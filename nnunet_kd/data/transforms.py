"""Carries soft labels through nnU-Net's augmentation as ``regression_target``."""

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms


class SplitSoftLabels(BasicTransform):
    """Moves all channels after the image's from ``image`` to ``regression_target``."""

    def __init__(self, image_channels: int):
        """Args:
        image_channels: number of leading channels that are the image.
        """
        super().__init__()
        self.image_channels = image_channels

    def apply(self, data_dict: dict, **params) -> dict:
        """Splits ``image`` (I + S + 1, *spatial)."""
        image = data_dict["image"]
        data_dict["image"] = image[: self.image_channels]
        data_dict["regression_target"] = image[self.image_channels :]
        return data_dict


class JoinSoftLabels(BasicTransform):
    """Appends ``regression_target`` to ``image``, so that nnU-Net's data loader batches both."""

    def apply(self, data_dict: dict, **params) -> dict:
        """Joins the two again; a cascade's one-hot channels stay with the image."""
        data_dict["image"] = torch.cat((data_dict["image"], data_dict.pop("regression_target")))
        return data_dict


def with_soft_labels(transforms: BasicTransform, image_channels: int) -> ComposeTransforms:
    """nnU-Net's training transforms, applied to image, segmentation and soft labels alike."""
    return ComposeTransforms([SplitSoftLabels(image_channels), transforms, JoinSoftLabels()])
