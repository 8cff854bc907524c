"""Losses of the four papers: pure torch, independent of nnU-Net."""

from nnunet_kd.losses.affinity import intra_class_loss, pairwise_loss, region_affinity_loss, similarity_loss
from nnunet_kd.losses.distillation import (
    DistillationLoss,
    active_terms,
    common_scale,
    resize_soft_labels,
    unpack_soft_labels,
)
from nnunet_kd.losses.feature_distillation import FeatureDistillationLoss
from nnunet_kd.losses.features import attention_transfer_loss, channel_wise_loss, hint_loss, importance_loss
from nnunet_kd.losses.ramps import ramp
from nnunet_kd.losses.segmentation import CompoundSegmentationLoss, dice_loss, focal_loss, lovasz_loss
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
    "CompoundSegmentationLoss",
    "DistillationLoss",
    "FeatureDistillationLoss",
    "KLDivergence",
    "MSEOfProbabilities",
    "SoftCrossEntropy",
    "SoftDiceLoss",
    "active_terms",
    "attention_transfer_loss",
    "channel_wise_loss",
    "common_scale",
    "dice_loss",
    "focal_loss",
    "hint_loss",
    "importance_loss",
    "intra_class_loss",
    "kl_divergence",
    "lovasz_loss",
    "mse_of_probabilities",
    "pairwise_loss",
    "ramp",
    "region_affinity_loss",
    "resize_soft_labels",
    "similarity_loss",
    "soft_cross_entropy",
    "soft_dice_loss",
    "unpack_soft_labels",
    "voxel_weights",
]
