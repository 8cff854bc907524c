"""The distillation part of a student's loss: weighted, ramped, deeply supervised terms against soft labels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_kd.losses.ramps import ramped_weight
from nnunet_kd.losses.settings import Distillation, HardLoss
from nnunet_kd.losses.soft_labels import (
    KLDivergence,
    MSEOfProbabilities,
    Pair,
    SoftCrossEntropy,
    SoftDiceLoss,
    SoftLabelLoss,
)
from nnunet_kd.losses.voxel_weights import voxel_weights

TERMS = ("kl", "mse", "soft_ce", "soft_dice")


def active_terms(config: Distillation) -> tuple[str, ...]:
    """Names of the terms whose weight is not 0."""
    return tuple(name for name in TERMS if getattr(config, name).weight > 0)


def unpack_soft_labels(channels: Tensor, sigmoid: bool) -> tuple[Tensor, Tensor]:
    """Augmented channels of the data loader -> soft labels and the mask of valid voxels.

    Args:
        channels: (B, S + 1, *spatial): foreground classes or regions, then 1 inside and 0 outside the image;
            interpolation makes both fractional at the image's border.
        sigmoid: the S channels are regions; otherwise background is what they leave to the mask.

    Returns:
        Probabilities (B, C, *spatial), C = S or S + 1, 0 where invalid; mask (B, 1, *spatial), bool.
    """
    values, inside = channels[:, :-1].clamp_min(0), channels[:, -1:]
    valid = inside > 0.5
    if sigmoid:
        return (values / inside.clamp_min(0.5)).clamp_max(1) * valid, valid
    foreground = values.sum(1, keepdim=True)
    whole = torch.maximum(inside, foreground).clamp_min(1e-6)
    return torch.cat(((inside - foreground).clamp_min(0), values), 1) * (valid / whole), valid


def resize_soft_labels(
    soft_labels: Tensor, valid: Tensor, shape: Sequence[int], how: str = "mean"
) -> tuple[Tensor, Tensor]:
    """Brings soft labels to the grid of a lower-resolution output.

    Args:
        soft_labels: (B, C, *spatial), 0 where invalid.
        valid: (B, 1, *spatial), bool.
        shape: spatial shape of the output.
        how: ``mean`` over the valid ones of the voxels that one covers, valid where at least half of them are;
            ``nearest``: the voxel at its centre, rounded up, as nnU-Net downsamples the reference.

    Returns:
        (B, C, *shape) and (B, 1, *shape).
    """
    if tuple(soft_labels.shape[2:]) == tuple(shape):
        return soft_labels, valid
    return _split(_resize(_join(soft_labels, valid), shape, how))


def _resize(joined: Tensor, shape: Sequence[int], how: str) -> Tensor:
    if how == "nearest":
        return F.interpolate(joined, tuple(shape), mode="nearest-exact")
    return _average(joined, shape)


def common_scale(config: Distillation, hard: HardLoss, progress: float) -> float:
    r"""Factor of hard-label loss and soft-label terms that keeps the sum of all weights that of the hard loss alone.

    .. math:: s = \frac{h}{w h + \sum_i w_i(t)}

    with the weights h of the parts of the hard-label loss, its own weight w and those of the terms at progress t. So a
    student differs from its undistilled twin in what it aims at, not in the size of its steps (optimizers such as SGD
    follow the size; Adam divides it out). 1 where ``config.normalized`` is off, or no weight is left.
    """
    parts = hard.dice_weight * (hard.name != "ce") + hard.other_weight * (hard.name != "dice")
    total = hard.weight * parts
    total += sum(ramped_weight(getattr(config, name), progress) for name in active_terms(config))
    return parts / total if config.normalized and parts * total > 0 else 1.0


def _join(soft_labels: Tensor, valid: Tensor) -> Tensor:
    """(B, C + 1, *spatial): soft labels, 0 where invalid, and the mask; both can be averaged, again and again."""
    return torch.cat((soft_labels, valid.to(soft_labels.dtype)), 1)


def _split(averaged: Tensor) -> tuple[Tensor, Tensor]:
    share = averaged[:, -1:]
    return averaged[:, :-1] / share.clamp_min(1e-6), share >= 0.5


def _average(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Mean over blocks of (B, C, *spatial), to (B, C, *shape)."""
    two = len(shape) == 2
    blocks = [big // small for big, small in zip(x.shape[2:], shape, strict=True)]
    if all(big == small * block for big, small, block in zip(x.shape[2:], shape, blocks, strict=True)):
        return F.avg_pool2d(x, blocks) if two else F.avg_pool3d(x, blocks)  # faster than adaptive pooling on a CPU
    pool = nn.AdaptiveAvgPool2d(tuple(shape)) if two else nn.AdaptiveAvgPool3d(tuple(shape))
    return pool(x)


class DistillationLoss(nn.Module):
    """Weighted distillation terms of a student's outputs.

    Source: Noothout et al. 2022, Eq. 1 (L_s); Hinton et al. 2015, Section 2.
    """

    def __init__(
        self, config: Distillation, sigmoid: bool, deep_supervision_weights: Sequence[float], ddp: bool = False
    ):
        """Sets the terms up.

        Args:
            config: terms, weights and ramps.
            sigmoid: region-based labels.
            deep_supervision_weights: weight of each output, highest resolution first; one weight without deep
                supervision.
            ddp: whether this process is one of several that train one network.
        """
        super().__init__()
        self.config = config
        self.sigmoid = sigmoid
        self.output_weights = tuple(deep_supervision_weights) if config.deep_supervision else (1.0,)
        losses: dict[str, SoftLabelLoss] = {
            "kl": KLDivergence(config.kl.temperature, config.kl.direction, sigmoid),
            "mse": MSEOfProbabilities(sigmoid),
            "soft_ce": SoftCrossEntropy(sigmoid),
            "soft_dice": SoftDiceLoss(config.soft_dice.batch_dice, sigmoid=sigmoid, ddp=ddp),
        }
        self.terms = {name: losses[name] for name in active_terms(config)}

    def forward(
        self,
        outputs: Tensor | Sequence[Tensor],
        channels: Tensor,
        progress: float,
        unlabeled: int = 0,
        voxel_weight: str = "none",
    ) -> dict[str, Tensor]:
        """Value of each active term, weighted and ramped.

        Args:
            outputs: logits (B, C, *spatial), or a sequence of them, highest resolution first.
            channels: soft-label channels (B, S + 1, *spatial) of the batch, see :func:`unpack_soft_labels`.
            progress: fraction of the training that has passed, in [0, 1].
            unlabeled: number of unlabeled cases, the last ones of the batch.
            voxel_weight: how the unlabeled cases' voxels are weighted, see :func:`voxel_weights`.

        Raises:
            ValueError: when the number of outputs is not that of the weights.
        """
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        if not self.config.deep_supervision:
            outputs = outputs[:1]
        if len(outputs) != len(self.output_weights):
            raise ValueError(f"{len(outputs)} outputs, but {len(self.output_weights)} deep-supervision weights")
        if not self.terms:
            return {}
        targets = unpack_soft_labels(channels, self.sigmoid)
        whole = joined = _join(*targets)
        sums: dict[str, Tensor] = {}
        for logits, weight in zip(outputs, self.output_weights, strict=True):
            if weight == 0:
                continue
            if logits.shape[2:] != joined.shape[2:]:
                # a mean of the output before, already smaller; the nearest voxel is one of the whole patch
                source = joined if self.config.downsampling == "mean" else whole
                joined = _resize(source, logits.shape[2:], self.config.downsampling)
                targets = _split(joined)
            weights = None
            if unlabeled and voxel_weight != "none":
                weights = self._voxel_weights(targets[0], unlabeled, voxel_weight)
            pair = Pair(logits, *targets, self.sigmoid, weights)
            for name, term in self.terms.items():
                value = weight * term.of(pair)
                sums[name] = sums[name] + value if name in sums else value
        return {name: value * ramped_weight(getattr(self.config, name), progress) for name, value in sums.items()}

    def _voxel_weights(self, soft_labels: Tensor, unlabeled: int, kind: str) -> Tensor:
        """(B, 1, *spatial): 1 for labeled cases, by how sure the teachers are for the last ``unlabeled`` ones."""
        labeled = torch.ones_like(soft_labels[:-unlabeled, :1])
        return torch.cat((labeled, voxel_weights(soft_labels[-unlabeled:], kind, self.sigmoid)))
