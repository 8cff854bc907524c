"""What the terms between networks that are trained together share."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from nnunet_kd.losses.term import Term, TermRegistry
from nnunet_kd.utilities.schema import number


def probabilities_of(logits: Tensor, sigmoid: bool = False) -> Tensor:
    """Softmax, or independent sigmoids for regions."""
    return logits.sigmoid() if sigmoid else logits.softmax(1)


def mean_probabilities(logits: Sequence[Tensor], sigmoid: bool = False) -> Tensor:
    """Mean of the networks' probabilities (B, C, *spatial), detached.

    Source: Choi 2022, Section 2.2 (the teachers' mean).
    """
    return torch.stack([probabilities_of(z.detach(), sigmoid) for z in logits]).mean(0)


@dataclass(frozen=True)
class PeerOutputs:
    """What networks that are trained together say of the same cases.

    Attributes:
        student: logits (B, C, *spatial).
        others: logits of the other networks, each (B, C, *spatial): one or two teachers, or a second student.
        between_students: the student and the other network teach each other.
        sigmoid: region-based labels.
    """

    student: Tensor
    others: tuple[Tensor, ...]
    between_students: bool
    sigmoid: bool

    def of_cases(self, cases: slice) -> "PeerOutputs":
        """The same of some of the cases."""
        return PeerOutputs(
            self.student[cases], tuple(z[cases] for z in self.others), self.between_students, self.sigmoid
        )

    @cached_property
    def mean(self) -> Tensor:
        """The teachers' mean probabilities (B, C, *spatial), detached."""
        return mean_probabilities(self.others, self.sigmoid)


@dataclass(frozen=True)
class PeerTerm(Term):
    """Settings and function of something that networks which are trained together teach each other.

    Attributes:
        on_labeled: also on labeled cases, with a curve of its own for the unlabeled ones.
        plain_weight: the configuration has its weight only, as ``NAME_weight``; it has no ramp of its own.
    """

    on_labeled: ClassVar[bool] = False
    plain_weight: ClassVar[bool] = False

    @classmethod
    def field(cls, name: str, meaning: str) -> tuple[str, type, Any]:
        """See :class:`Term`."""
        if cls.plain_weight:
            return f"{name}_weight", float, number(cls.weight, meaning, minimum=0)
        return super().field(name, meaning)

    @classmethod
    def applies(cls, others: int, between_students: bool) -> bool:
        """Whether there is something to teach, with so many networks beside the student: where they are teachers."""
        return others > 0 and not between_students

    def loss(self, outputs: PeerOutputs) -> Tensor:
        """The loss on some cases; a scalar."""
        raise NotImplementedError


PEER_TERMS: TermRegistry[PeerTerm] = TermRegistry("term of cross teaching")
