"""Weights and settings of loss terms, and the block of those between features, as frozen dataclasses."""

from dataclasses import dataclass
from typing import Literal

from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.schema import block, number, value

Ramp = Literal["none", "linear", "gaussian", "fade"]
RAMP = "weight over the training: constant, rising linearly or as exp(-5 (1 - t)^2), or falling linearly to 0"
RAMP_LENGTH = "fraction of the training over which the weight rises or falls"


@dataclass(frozen=True)
class Term:
    """Weight and ramp of one distillation term; weight 0 switches it off."""

    weight: float = number(0.0, "weight in the training loss; 0 switches the term off", minimum=0)
    ramp: Ramp = value("none", RAMP)
    ramp_length: float = number(1.0, RAMP_LENGTH, above=0, maximum=1)


@dataclass(frozen=True)
class ImportanceTerm(Term):
    """Importance maps distillation (Qin et al. 2021, Eq. 3-5)."""

    weight: float = number(0.1, "weight in the training loss; 0 switches the term off", minimum=0)
    exponent: float = number(2.0, "exponent of the activations in the importance map", above=0)
    scale: Literal["size_free", "paper"] = value(
        "size_free", "size_free: independent of the patch size; paper: Eq. 5, grows with the root of the places"
    )


@dataclass(frozen=True)
class RegionAffinityTerm(Term):
    """Region affinity distillation (Qin et al. 2021, Eq. 6-8)."""

    weight: float = number(0.1, "weight in the training loss; 0 switches the term off", minimum=0)
    form: Literal["mean", "vector"] = value(
        "vector", "vector: each pair of classes by itself; mean: one number, in which errors of pairs can cancel"
    )
    norm: int = number(2, "p of the norm of the vector's difference, 1 or 2", minimum=1, maximum=2)


@dataclass(frozen=True)
class AttentionTerm(Term):
    """Attention transfer (Zagoruyko and Komodakis 2017)."""

    exponent: float = number(2.0, "exponent of the activations in the attention map", above=0)


@dataclass(frozen=True)
class PairwiseTerm(Term):
    """Pair-wise (structured) distillation (Liu et al. 2019)."""

    positions: int = number(
        512, "at most so many places after pooling; memory grows with the square", minimum=2, maximum=8192
    )


@dataclass(frozen=True)
class ChannelWiseTerm(Term):
    """Channel-wise distillation (Shu et al. 2021)."""

    temperature: float = number(4.0, "softmax temperature T over places; the term carries T^2", above=0)


@dataclass(frozen=True)
class FeaturePair:
    """A layer of the student and the layer of the teacher that it imitates."""

    student: str = value("", "feature of the student, as nnUNetv2_kd plan --list-taps names it (required)")
    teacher: str = value("", "feature of the teacher (required)")

    def check(self, path: str) -> None:
        """Both are required.

        Raises:
            UserError: names the key.
        """
        for key, name in (("student", self.student), ("teacher", self.teacher)):
            if not name:
                raise UserError(f"{path}.{key}: missing; expected a name such as encoder.0 (plan --list-taps).")


@dataclass(frozen=True)
class Features:
    """Terms between features of the student and of a teacher in memory, each summed over the pairs of layers."""

    pairs: tuple[FeaturePair, ...] = value((), "pairs of layers; empty: number_of_pairs of equal resolution")
    number_of_pairs: int = number(
        2, "pairs to choose: the first, the last, and what lies evenly between", minimum=1, maximum=4
    )
    importance: ImportanceTerm = block(ImportanceTerm, "importance maps (IMD), L1 distance")
    region_affinity: RegionAffinityTerm = block(RegionAffinityTerm, "contrast between classes (RAD)")
    attention: AttentionTerm = block(AttentionTerm, "attention transfer (AT), L2 distance")
    pairwise: PairwiseTerm = block(PairwiseTerm, "cosines between places (PA)")
    similarity: Term = block(Term, "similarity of the batch's images (SPKD); needs two or more in a batch")
    intra_class: Term = block(Term, "similarity of voxels to their class (IFVD)")
    hint: Term = block(Term, "squared error of the student's projected features (FitNets, mimic)")
    channel_wise: ChannelWiseTerm = block(ChannelWiseTerm, "distribution of each channel over places (CWD)")


FEATURE_TERMS = (
    "importance",
    "region_affinity",
    "attention",
    "pairwise",
    "similarity",
    "intra_class",
    "hint",
    "channel_wise",
)


def active_feature_terms(config: Features) -> tuple[str, ...]:
    """Names of the feature terms whose weight is not 0."""
    return tuple(name for name in FEATURE_TERMS if getattr(config, name).weight > 0)
