"""The feature part of a student's loss: weighted, ramped terms, summed over pairs of layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nnunet_kd.losses.feature_term import FeatureTerm
from nnunet_kd.losses.features import prepare
from nnunet_kd.losses.term import TermSettings
from nnunet_kd.utilities.errors import UserError
from nnunet_kd.utilities.schema import number, value


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
class FeatureSettings(TermSettings[FeatureTerm]):
    """Terms between features of the student and of a teacher in memory, each summed over the pairs of layers."""

    pairs: tuple[FeaturePair, ...] = value((), "pairs of layers; empty: number_of_pairs of equal resolution")
    number_of_pairs: int = number(
        2, "pairs to choose: the first, the last, and what lies evenly between", minimum=1, maximum=4
    )


class FeatureDistillationLoss(nn.Module):
    """Feature terms between a student and one teacher, with the projection heads that some of them need.

    The heads are the only parameters here; they are trained along and belong to the training, not to the student.

    Example:
        >>> import torch
        >>> from nnunet_kd.config import Features
        >>> loss = FeatureDistillationLoss(Features(), channels=[(4, 8)], dimensions=2)
        >>> student, teacher, regions = torch.rand(2, 4, 8, 8), torch.rand(2, 8, 8, 8), torch.rand(2, 3, 8, 8) > 0.5
        >>> sorted(loss([student], [teacher], regions, progress=0.0))
        ['importance', 'region_affinity']
    """

    def __init__(self, config: FeatureSettings, channels: Sequence[tuple[int, int]], dimensions: int):
        """Sets the terms up.

        Args:
            config: terms, weights and ramps.
            channels: (student's, teacher's) number of channels of every pair of layers.
            dimensions: 2 or 3 spatial axes.
        """
        super().__init__()
        self.terms = config.active()
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.heads = nn.ModuleDict()
        for i, (mine, theirs) in enumerate(channels):
            for name, term in self.terms.items():
                if term.projects(mine, theirs):
                    self.heads[f"{name}_{i}"] = convolution(mine, theirs, 1)

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], regions: Tensor, progress: float
    ) -> dict[str, Tensor]:
        """Value of each active term, weighted and ramped, summed over the pairs.

        Source of the sum: Qin et al. 2021, Eq. 5 and 8.

        Args:
            student: features (B, C, *spatial), one for each pair.
            teacher: as many.
            regions: masks (B, K, *spatial) of the reference, bool; background is one of them.
            progress: fraction of the training that has passed, in [0, 1].
        """
        sums: dict[str, Tensor] = {}
        for i, (mine, theirs) in enumerate(zip(student, teacher, strict=True)):
            mine, theirs = prepare(mine, theirs)
            for name, term in self.terms.items():
                head = f"{name}_{i}"
                part = term.loss(self.heads[head](mine) if head in self.heads else mine, theirs, regions)
                sums[name] = sums[name] + part if name in sums else part
        return {name: total * self.terms[name].weight_at(progress) for name, total in sums.items()}
