"""Losses between relations inside a student's and inside a teacher's feature maps: regions, places, images.

Shapes: features ``(B, C, *spatial)``, 2D or 3D, of one pair of layers; channels and spatial sizes may differ. Regions
are masks ``(B, K, *spatial)``, bool, of the reference, at any resolution; they may overlap, and voxels in none of them
(an ignore label) count nowhere. Half-precision inputs are promoted to float32, products are never taken in half
precision. The teacher's features never receive a gradient. All losses are 0 where the features are equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nnunet_kd.losses.feature_term import FEATURE_TERMS, FeatureTerm
from nnunet_kd.losses.features import prepare, rescale
from nnunet_kd.losses.regions import resize_regions
from nnunet_kd.losses.term import WEIGHT
from nnunet_kd.utilities.schema import number, value


def region_contrast(features: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cosine between the mean features of every two regions of an image.

    .. math:: R_i = \frac{1}{N_i} \sum_v e_v m_{iv}, \quad \cos_{ij} = \frac{R_i^T R_j}{\|R_i\|_2 \|R_j\|_2}

    Source: Qin et al. 2021, Eq. 6 and the vector form of Eq. 7.

    Args:
        features: (B, C, *spatial), float32 or float64.
        regions: (B, K, *spatial), bool; resized to the features (nearest neighbour).

    Returns:
        Cosines (B, K (K - 1) / 2) of the pairs i < j, and (bool, same shape) whether the image has both regions.
    """
    vectors, present = _region_means(features, regions)
    unit = F.normalize(vectors, dim=2)
    i, j = torch.triu_indices(unit.shape[1], unit.shape[1], 1, device=unit.device)
    return (unit[:, i] * unit[:, j]).sum(2), present[:, i] & present[:, j]


def region_affinity_loss(
    student: Tensor, teacher: Tensor, regions: Tensor, *, form: str = "vector", norm: int = 2
) -> Tensor:
    r"""Region affinity distillation (RAD): distance of region contrasts, mean over images.

    .. math:: \| V^s - V^t \|_p

    V is the mean over all pairs of regions of the image (``mean``) or the vector of them (``vector``).

    Source: Qin et al. 2021, Eq. 6-8; Ben Loussaief et al. 2023, Eq. 3, second sum.

    Args:
        student: (B, C_s, *spatial).
        teacher: (B, C_t, *spatial).
        regions: (B, K, *spatial), bool, K >= 2; with labels, the background is one of them.
        form: ``mean`` (between 0 and 2) or ``vector`` (grows with the number of pairs).
        norm: p, 1 or 2; of a mean, a single number, both are its absolute value.

    Raises:
        ValueError: for shapes that do not fit, another form or another norm.

    Deviations: a region that an image lacks, at the resolution of either network's features, is in no pair; an image
    with fewer than two regions does not count; without any image that counts the loss is 0.

    Example:
        >>> features = torch.rand(1, 3, 4, 4)
        >>> regions = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
        >>> regions[:, 0, :2], regions[:, 1, 2:] = True, True
        >>> region_affinity_loss(features, features, regions).item()
        0.0
    """
    student, teacher = prepare(student, teacher)
    _check_regions(regions, student, at_least=2)
    if form not in ("mean", "vector") or norm not in (1, 2):
        raise ValueError(f"form {form!r}, norm {norm!r}: expected 'mean' or 'vector', and 1 or 2")
    (contrast_s, pairs_s), (contrast_t, pairs_t) = (region_contrast(e, regions) for e in (student, teacher))
    pairs = pairs_s & pairs_t
    number = pairs.sum(1)
    difference = (contrast_s - contrast_t) * pairs
    if form == "mean":
        distance = difference.sum(1).abs() / number.clamp_min(1)
    else:
        distance = torch.linalg.vector_norm(difference, norm, dim=1)
    return distance.sum() / (number > 0).sum().clamp_min(1)


@FEATURE_TERMS.register("region_affinity", "contrast between classes (RAD)")
@dataclass(frozen=True)
class RegionAffinityTerm(FeatureTerm):
    """Region affinity distillation (Qin et al. 2021, Eq. 6-8)."""

    weight: float = number(0.1, WEIGHT, minimum=0)
    form: Literal["mean", "vector"] = value(
        "vector", "vector: each pair of classes by itself; mean: one number, in which errors of pairs can cancel"
    )
    norm: int = number(2, "p of the norm of the vector's difference, 1 or 2", minimum=1, maximum=2)

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """See :func:`region_affinity_loss`."""
        return region_affinity_loss(student, teacher, regions, form=self.form, norm=self.norm)


def intra_class_loss(student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
    r"""Intra-class feature variation distillation (IFVD): how alike every voxel is to the mean of its class.

    .. math:: \frac{1}{N} \sum_{v} (\cos(e^s_v, R^s_{k(v)}) - \cos(e^t_v, R^t_{k(v)}))^2

    Source: Wang et al. 2020, Section 3.2. R is the mean over the voxels of class k in the same image.

    Args:
        student: (B, C_s, *spatial); rescaled to the teacher's spatial size.
        teacher: (B, C_t, *spatial).
        regions: (B, K, *spatial), bool; a voxel of several regions counts once for each.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> features = torch.rand(1, 3, 4, 4)
        >>> regions = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
        >>> regions[:, 0, :2], regions[:, 1, 2:] = True, True
        >>> intra_class_loss(features, features, regions).item()
        0.0
    """
    student, teacher = prepare(student, teacher)
    _check_regions(regions, student, at_least=1)
    regions = resize_regions(regions, teacher.shape[2:])
    maps = []
    for features in (rescale(student, teacher.shape[2:]), teacher):
        vectors, _ = _region_means(features, regions)
        with _full_precision(features):
            maps.append(F.normalize(vectors, dim=2) @ F.normalize(features.flatten(2), dim=1))
    member = regions.flatten(2)
    return ((maps[0] - maps[1]).square() * member).sum() / member.sum().clamp_min(1)


@FEATURE_TERMS.register("intra_class", "similarity of voxels to their class (IFVD)")
@dataclass(frozen=True)
class IntraClassTerm(FeatureTerm):
    """Intra-class feature variation distillation (Wang et al. 2020)."""

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """See :func:`intra_class_loss`."""
        return intra_class_loss(student, teacher, regions)


def pairwise_loss(student: Tensor, teacher: Tensor, *, positions: int = 512) -> Tensor:
    r"""Pair-wise (structured) distillation (PA): cosines between all places of an image.

    .. math:: \frac{1}{N^2} \sum_{u, v} (a^s_{uv} - a^t_{uv})^2, \quad a_{uv} = \frac{e_u^T e_v}{\|e_u\| \|e_v\|}

    Source: Liu et al. 2019, Section 3.2 (pair-wise distillation).

    Args:
        student: (B, C_s, *spatial).
        teacher: (B, C_t, *spatial).
        positions: at most so many places N: both features are average-pooled to the same :func:`pooled_grid`, which
            bounds each of the few matrices in memory to 4 B N^2 bytes (1 MiB per image at 512).

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> features = torch.rand(1, 3, 4, 4)
        >>> pairwise_loss(features, features).item()
        0.0
    """
    student, teacher = prepare(student, teacher)
    common = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    grid = pooled_grid(common, positions)
    affinities = []
    for features in (student, teacher):
        unit = F.normalize(rescale(features, grid).flatten(2), dim=1)
        with _full_precision(unit):
            affinities.append(unit.transpose(1, 2) @ unit)
    return (affinities[0] - affinities[1]).square().mean()


@FEATURE_TERMS.register("pairwise", "cosines between places (PA)")
@dataclass(frozen=True)
class PairwiseTerm(FeatureTerm):
    """Pair-wise (structured) distillation (Liu et al. 2019)."""

    positions: int = number(
        512, "at most so many places after pooling; memory grows with the square", minimum=2, maximum=8192
    )

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """See :func:`pairwise_loss`."""
        return pairwise_loss(student, teacher, positions=self.positions)


def pooled_grid(shape: Sequence[int], positions: int) -> list[int]:
    """The grid of at most ``positions`` places that halving the longest axis of ``shape`` again and again leads to."""
    grid = list(shape)
    while math.prod(grid) > positions:
        longest = grid.index(max(grid))
        grid[longest] = (grid[longest] + 1) // 2
    return grid


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Similarity-preserving distillation (SPKD): which images of the batch have alike features.

    .. math:: \frac{1}{B^2} \| G^s - G^t \|_F^2, \quad \tilde G = Q Q^T, \; G_i = \tilde G_i / \|\tilde G_i\|_2

    with one image's flattened features in each row of Q. 0 for a batch of one image; depends on the batch size.

    Source: Tung and Mori 2019, Eq. 1-4.

    Args:
        student: (B, C_s, *spatial).
        teacher: (B, C_t, *spatial).

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> features = torch.rand(3, 2, 4, 4)
        >>> similarity_loss(features, features).item()
        0.0
    """
    matrices = []
    for features in prepare(student, teacher):
        rows = features.flatten(1)
        with _full_precision(rows):
            matrices.append(F.normalize(rows @ rows.T, dim=1))
    return (matrices[0] - matrices[1]).square().mean()


@FEATURE_TERMS.register("similarity", "similarity of the batch's images (SPKD); needs two or more in a batch")
@dataclass(frozen=True)
class SimilarityTerm(FeatureTerm):
    """Similarity-preserving distillation (Tung and Mori 2019)."""

    smallest_batch = 2

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """See :func:`similarity_loss`."""
        return similarity_loss(student, teacher)


def _region_means(features: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features (B, K, C) of every region, 0 where an image lacks it, and whether it has it (B, K)."""
    masks = resize_regions(regions, features.shape[2:]).flatten(2)
    voxels = masks.sum(2)
    with _full_precision(features):
        sums = masks.to(features.dtype) @ features.flatten(2).transpose(1, 2)
    return sums / voxels.clamp_min(1)[..., None], voxels > 0


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


def _check_regions(regions: Tensor, features: Tensor, at_least: int) -> None:
    if regions.ndim != features.ndim or regions.shape[0] != features.shape[0] or regions.shape[1] < at_least:
        raise ValueError(
            f"regions {tuple(regions.shape)}: expected (B, K, *spatial) with B = {features.shape[0]}, K >= {at_least} "
            f"and {features.ndim - 2} spatial axes"
        )
