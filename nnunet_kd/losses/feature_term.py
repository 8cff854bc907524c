"""What the terms between features of a student and of a teacher share."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nnunet_kd.losses.term import Term, TermRegistry


@dataclass(frozen=True)
class FeatureTerm(Term):
    """Settings and function of a term between features of one pair of layers.

    Attributes:
        projection: whether a 1 x 1 convolution, which is trained along, brings the student's features to the teacher's
            channels.
        smallest_batch: images that it needs.
    """

    projection: ClassVar[Literal["never", "where channels differ", "always"]] = "never"
    smallest_batch: ClassVar[int] = 1

    def projects(self, student_channels: int, teacher_channels: int) -> bool:
        """Whether the student's features are projected, for these numbers of channels."""
        return self.projection == "always" or (
            self.projection == "where channels differ" and student_channels != teacher_channels
        )

    def loss(self, student: Tensor, teacher: Tensor, regions: Tensor) -> Tensor:
        """The loss of one pair of layers; a scalar.

        Args:
            student: (B, C, *spatial), projected where the term asks for it.
            teacher: (B, C_t, *spatial).
            regions: masks (B, K, *spatial) of the reference, bool; background is one of them; no mask where there is
                no reference.
        """
        raise NotImplementedError


FEATURE_TERMS: TermRegistry[FeatureTerm] = TermRegistry("feature term")
