"""Losses of the four papers: pure torch, independent of nnU-Net."""

from nnunet_kd.losses.affinity import intra_class_loss, pairwise_loss, region_affinity_loss, similarity_loss
from nnunet_kd.losses.cross_teaching import cross_teaching_loss, pseudo_dice_loss
from nnunet_kd.losses.distillation import DistillationLoss
from nnunet_kd.losses.feature_distillation import FeatureDistillationLoss
from nnunet_kd.losses.features import attention_transfer_loss, channel_wise_loss, hint_loss, importance_loss
from nnunet_kd.losses.kl import KLDivergence, kl_divergence
from nnunet_kd.losses.mse import MSEOfProbabilities, mse_of_probabilities
from nnunet_kd.losses.peers import CrossTeachingLoss
from nnunet_kd.losses.ramps import ramp
from nnunet_kd.losses.segmentation import CompoundSegmentationLoss, dice_loss, focal_loss, lovasz_loss
from nnunet_kd.losses.soft_ce import SoftCrossEntropy, soft_cross_entropy
from nnunet_kd.losses.soft_dice import SoftDiceLoss, soft_dice_loss
from nnunet_kd.losses.voxel_weights import voxel_weights

__all__ = [
    "CompoundSegmentationLoss",
    "CrossTeachingLoss",
    "DistillationLoss",
    "FeatureDistillationLoss",
    "KLDivergence",
    "MSEOfProbabilities",
    "SoftCrossEntropy",
    "SoftDiceLoss",
    "attention_transfer_loss",
    "channel_wise_loss",
    "cross_teaching_loss",
    "dice_loss",
    "focal_loss",
    "hint_loss",
    "importance_loss",
    "intra_class_loss",
    "kl_divergence",
    "lovasz_loss",
    "mse_of_probabilities",
    "pairwise_loss",
    "pseudo_dice_loss",
    "ramp",
    "region_affinity_loss",
    "similarity_loss",
    "soft_cross_entropy",
    "soft_dice_loss",
    "voxel_weights",
]
