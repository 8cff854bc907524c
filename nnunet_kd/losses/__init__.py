"""Losses of the four papers: pure torch, independent of nnU-Net."""

from nnunet_kd.losses.distillation import (
    DistillationLoss,
    active_terms,
    resize_soft_labels,
    unpack_soft_labels,
)
from nnunet_kd.losses.ramps import ramp
from nnunet_kd.losses.soft_labels import (
    KLDivergence,
    MSEOfProbabilities,
    SoftCrossEntropy,
    SoftDiceLoss,
    kl_divergence,
    mse_of_probabilities,
    soft_cross_entropy,
    soft_dice_loss,
)
from nnunet_kd.losses.voxel_weights import voxel_weights

__all__ = [
    "DistillationLoss",
    "KLDivergence",
    "MSEOfProbabilities",
    "SoftCrossEntropy",
    "SoftDiceLoss",
    "active_terms",
    "kl_divergence",
    "mse_of_probabilities",
    "ramp",
    "resize_soft_labels",
    "soft_cross_entropy",
    "soft_dice_loss",
    "unpack_soft_labels",
    "voxel_weights",
]
