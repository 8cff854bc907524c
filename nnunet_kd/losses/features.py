"""Losses between a student's and a teacher's feature maps that compare activations place by place.

Shapes: features ``(B, C, *spatial)``, 2D or 3D, of one pair of layers. Channels may differ where a docstring does not
say otherwise; where the spatial sizes differ, the student's features are rescaled to the teacher's (:func:`rescale`).
Half-precision inputs are promoted to float32. The teacher's features never receive a gradient. Losses are means over
the batch; all are 0 where the features are equal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_kd.losses.feature_term import FEATURE_TERMS, FeatureTerm
from nnunet_kd.losses.term import WEIGHT
from nnunet_kd.utilities.schema import number, value


def rescale(features: Tensor, shape: Sequence[int]) -> Tensor:
    """Brings features (B, C, *spatial) to another spatial shape: average pooling along axes that shrink, repetition
    (nearest neighbour) along axes that grow.

    Source: Qin et al. 2021, Eq. 2 (pooling when bigger, unpooling when smaller). The kind of pooling is our choice.
    """
    if tuple(features.shape[2:]) == tuple(shape):
        return features
    smaller = [min(a, b) for a, b in zip(features.shape[2:], shape, strict=True)]
    if tuple(smaller) != tuple(features.shape[2:]):
        pool = nn.AdaptiveAvgPool2d if len(smaller) == 2 else nn.AdaptiveAvgPool3d
        features = pool(tuple(smaller))(features)
    return features if tuple(smaller) == tuple(shape) else F.interpolate(features, tuple(shape), mode="nearest-exact")


def importance_map(features: Tensor, exponent: float = 2.0) -> Tensor:
    r"""Importance of every place, (B, C, *spatial) -> (B, *spatial).

    .. math:: \varphi(e) = \sum_{c} |e_c|^p

    Source: Qin et al. 2021, Eq. 3 (p = 2; the authors' code has p = 4); Zagoruyko and Komodakis 2017, Section 3.1.
    """
    powers = features.square() if exponent == 2 else features.abs().pow(exponent)  # square keeps less for the gradient
    return powers.sum(1)


def importance_loss(student: Tensor, teacher: Tensor, *, exponent: float = 2.0, scale: str = "size_free") -> Tensor:
    r"""Importance maps distillation (IMD): L1 distance of importance maps of unit L2 norm.

    .. math:: \left\| \frac{M^s}{\|M^s\|_2} - \frac{M^t}{\|M^t\|_2} \right\|_1, \quad M = \varphi(e)

    Source: Qin et al. 2021, Eq. 4-5; Ben Loussaief et al. 2023, Eq. 3, first sum.

    Args:
        student: (B, C_s, *spatial).
        teacher: (B, C_t, *spatial).
        exponent: p of :func:`importance_map`, > 0.
        scale: ``paper`` is the formula above, which grows with the square root of the number N of places (at most
            2 sqrt(N)); ``size_free`` divides it by sqrt(N): between 0 and 2, independent of the image size.

    Raises:
        ValueError: for shapes that do not fit or another scale.

    Example:
        >>> features = torch.rand(2, 3, 8, 8)
        >>> importance_loss(features, features).item()
        0.0
    """
    student, teacher = prepare(student, teacher)
    if scale not in ("paper", "size_free"):
        raise ValueError(f"scale {scale!r}: expected 'paper' or 'size_free'")
    distance = _unit_map_difference(student, teacher, exponent).abs().sum(1).mean()
    return distance if scale == "paper" else distance / math.sqrt(math.prod(teacher.shape[2:]))


@FEATURE_TERMS.register("importance", "importance maps (IMD), L1 distance")
@dataclass(frozen=True)
class ImportanceTerm(FeatureTerm):
    """Importance maps distillation (Qin et al. 2021, Eq. 3-5)."""

    weight: float = number(0.1, WEIGHT, minimum=0)
    exponent: float = number(2.0, "exponent of the activations in the importance map", above=0)
    scale: Literal["size_free", "paper"] = value(
        "size_free", "size_free: independent of the patch size; paper: Eq. 5, grows with the root of the places"
    )

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """See :func:`importance_loss`."""
        return importance_loss(student, teacher, exponent=self.exponent, scale=self.scale)


def attention_transfer_loss(student: Tensor, teacher: Tensor, *, exponent: float = 2.0) -> Tensor:
    r"""Attention transfer (AT): L2 distance of attention maps of unit L2 norm; between 0 and sqrt(2).

    .. math:: \left\| \frac{Q^s}{\|Q^s\|_2} - \frac{Q^t}{\|Q^t\|_2} \right\|_2, \quad Q = \sum_c |e_c|^p

    Source: Zagoruyko and Komodakis 2017, Eq. 2 (p-norm 2), without its factor 1/2, which belongs to the weight. The
    paper asks for equal spatial sizes; here the student is rescaled.

    Args:
        student: (B, C_s, *spatial).
        teacher: (B, C_t, *spatial).
        exponent: of the attention map, > 0.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> features = torch.rand(2, 3, 8, 8)
        >>> attention_transfer_loss(features, features).item()
        0.0
    """
    student, teacher = prepare(student, teacher)
    return torch.linalg.vector_norm(_unit_map_difference(student, teacher, exponent), dim=1).mean()


@FEATURE_TERMS.register("attention", "attention transfer (AT), L2 distance")
@dataclass(frozen=True)
class AttentionTerm(FeatureTerm):
    """Attention transfer (Zagoruyko and Komodakis 2017)."""

    exponent: float = number(2.0, "exponent of the activations in the attention map", above=0)

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """See :func:`attention_transfer_loss`."""
        return attention_transfer_loss(student, teacher, exponent=self.exponent)


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Hint or mimic loss: mean squared error of features, usually of a projection of the student's.

    .. math:: \frac{1}{N C} \sum_{v, c} (r(e^s)_{vc} - e^t_{vc})^2

    Source: Romero et al. 2015 (FitNets), Eq. 3; Li et al. 2017 (mimic). Both sum where this takes the mean, so that the
    value does not depend on sizes; FitNets has a factor 1/2.

    Args:
        student: projected features (B, C, *spatial), as many channels as the teacher's.
        teacher: (B, C, *spatial).

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> hint_loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)).item()
        1.0
    """
    student, teacher = prepare(student, teacher, same_channels=True)
    return F.mse_loss(rescale(student, teacher.shape[2:]), teacher)


@FEATURE_TERMS.register("hint", "squared error of the student's projected features (FitNets, mimic)")
@dataclass(frozen=True)
class HintTerm(FeatureTerm):
    """Hint or mimic loss; the student's features are always projected (Romero et al. 2015, Section 2.2)."""

    projection = "always"

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """See :func:`hint_loss`."""
        return hint_loss(student, teacher)


def channel_wise_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    r"""Channel-wise distillation (CWD): KL divergence between the channels' distributions over places, times T^2.

    .. math:: \frac{T^2}{C} \sum_c \sum_v \phi(e^t)_{cv} \log \frac{\phi(e^t)_{cv}}{\phi(e^s)_{cv}}, \quad
              \phi(e)_{cv} = \frac{\exp(e_{cv} / T)}{\sum_u \exp(e_{cu} / T)}

    Source: Shu et al. 2021, Section 3.2 (the softmax over places and the loss that follows it). In nats times T^2.

    Args:
        student: (B, C, *spatial), as many channels as the teacher's.
        teacher: (B, C, *spatial).
        temperature: T > 0.

    Raises:
        ValueError: for shapes that do not fit, or a temperature that is not positive.

    Example:
        >>> features = torch.rand(1, 2, 4, 4)
        >>> channel_wise_loss(features, features).item()
        0.0
    """
    student, teacher = prepare(student, teacher, same_channels=True)
    if not temperature > 0:
        raise ValueError(f"temperature {temperature!r}: expected a number > 0")
    student = rescale(student, teacher.shape[2:])
    log_p, log_q = ((e.flatten(2) / temperature).log_softmax(2) for e in (student, teacher))
    return temperature**2 * F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(2).mean()


@FEATURE_TERMS.register("channel_wise", "distribution of each channel over places (CWD)")
@dataclass(frozen=True)
class ChannelWiseTerm(FeatureTerm):
    """Channel-wise distillation; projected where the numbers of channels differ (Shu et al. 2021, Section 3.2)."""

    projection = "where channels differ"
    temperature: float = number(4.0, "softmax temperature T over places; the term carries T^2", above=0)

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """See :func:`channel_wise_loss`."""
        return channel_wise_loss(student, teacher, temperature=self.temperature)


def prepare(student: Tensor, teacher: Tensor, same_channels: bool = False) -> tuple[Tensor, Tensor]:
    """Checks shapes, promotes half precision, detaches the teacher's features.

    Raises:
        ValueError: for features that are no pair.
    """
    fits = student.ndim == teacher.ndim and student.ndim in (4, 5) and student.shape[0] == teacher.shape[0]
    if not fits or (same_channels and student.shape[1] != teacher.shape[1]):
        channels = "with equal channels " if same_channels else ""
        raise ValueError(
            f"features of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must both be "
            f"(B, C, *spatial) {channels}in 2D or 3D"
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def _unit_map_difference(student: Tensor, teacher: Tensor, exponent: float) -> Tensor:
    """Difference (B, N) of the two importance maps, each of unit L2 norm."""
    maps = importance_map(rescale(student, teacher.shape[2:]), exponent), importance_map(teacher, exponent)
    unit_s, unit_t = (F.normalize(m.flatten(1), dim=1) for m in maps)
    return unit_s - unit_t
