"""Patches on which a student is reconstructed and measured, drawn by nnU-Net's own data loader."""

import math
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

from nnunet_kd.inheritance.reconstruct import Batch
from nnunet_kd.losses.regions import unpack_reference
from nnunet_kd.utilities.random_state import random_state, set_random_state

PATCHES = 64
FEATURES = 2**29  # values of a student's convolutions, all patches together
VOXELS_AT_ONCE = 2**18


def draw_batches(
    dataset: Any,
    configuration: ConfigurationManager,
    labels: LabelManager,
    features: int,
    device: torch.device,
    seed: int,
    is_cascaded: bool = False,
) -> list[Batch]:
    """Patches without augmentation, a third of them around foreground, as nnU-Net draws them for its validation.

    Args:
        dataset: nnU-Net's dataset, or what its data loader takes for one.
        configuration: gives the size of the patches.
        labels: labels or regions.
        features: values that the student's convolutions give for one patch; with many, fewer patches are drawn.
        device: where the patches are wanted.
        seed: of the patches; the generators are left as they were.
        is_cascaded: the network sees the segmentation of a previous stage.
    """
    patch = configuration.patch_size
    at_once = max(1, min(configuration.batch_size, VOXELS_AT_ONCE // math.prod(patch)))
    number = max(8, min(PATCHES, FEATURES // features) // at_once)
    regions = labels.foreground_regions if labels.has_regions else None
    transforms = nnUNetTrainer.get_validation_transforms(
        None, is_cascaded, labels.foreground_labels, regions, labels.ignore_label
    )
    loader = nnUNetDataLoader(
        dataset, at_once, patch, patch, labels, 0.33, probabilistic_oversampling=True, transforms=transforms
    )
    before = random_state()
    try:
        np.random.seed(seed)
        torch.manual_seed(seed)
        drawn = [next(loader) for _ in range(number)]
    finally:
        set_random_state(before)
    batches = []
    for batch in drawn:
        reference, _ = unpack_reference(batch["target"], labels.num_segmentation_heads, labels.has_regions)
        batches.append(Batch(batch["data"].to(device), reference.float().to(device)))
    return batches
