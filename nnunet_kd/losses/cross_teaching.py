"""Losses between networks that are trained together: cross teaching, pseudo-supervision, distillation.

Shapes: logits and probabilities ``(B, C, *spatial)``, 2D or 3D. ``sigmoid`` says that the C channels are independent
regions instead of a softmax. All voxels count. The network that teaches is detached: it receives no gradient.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nnunet_kd.losses.kl import KLDivergence
from nnunet_kd.losses.peer_term import PEER_TERMS, PeerOutputs, PeerTerm, probabilities_of
from nnunet_kd.losses.segmentation import dice_loss
from nnunet_kd.losses.term import RAMP, Ramp
from nnunet_kd.utilities.schema import number, value

FLOOR = 1e-8  # smallest probability of a network at hand


def pseudo_labels(probabilities: Tensor, sigmoid: bool = False) -> Tensor:
    """The most probable class, one-hot, or the regions above one half; bool, detached."""
    p = probabilities.detach()
    if sigmoid:
        return p > 0.5
    return torch.zeros_like(p, dtype=torch.bool).scatter_(1, p.argmax(1, keepdim=True), True)


def pseudo_dice_loss(logits: Tensor, labels: Tensor, sigmoid: bool = False) -> Tensor:
    r"""Dice loss of a network against pseudo-labels, without background; the sums run over the batch.

    .. math:: 1 - \frac{1}{C} \sum_c \frac{2 \sum_v p_{vc} y_{vc} + s}{\sum_v p_{vc} + \sum_v y_{vc} + s}

    Source: Choi 2022, Section 2.2 (L_ctl and L_psv), with the smoothing of 1e-5 of the authors' code.

    Args:
        logits: (B, C, *spatial).
        labels: (B, C, *spatial), bool, from :func:`pseudo_labels`.
        sigmoid: independent regions, all of which count.

    Example:
        >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
        >>> round(pseudo_dice_loss(logits, pseudo_labels(logits.softmax(1))).item(), 4)
        0.0
    """
    first = 0 if sigmoid else 1
    return dice_loss(probabilities_of(logits, sigmoid)[:, first:], labels[:, first:])


def cross_teaching_loss(first: Tensor, second: Tensor, sigmoid: bool = False) -> Tensor:
    r"""Two networks learn each other's pseudo-labels.

    .. math:: \mathrm{Dice}(P_1, \mathrm{argmax} P_2) + \mathrm{Dice}(P_2, \mathrm{argmax} P_1)

    Source: Choi 2022, Section 2.2 (L_ctl).

    Args:
        first: logits of one network, (B, C, *spatial).
        second: logits of the other.
        sigmoid: independent regions.

    Example:
        >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
        >>> round(cross_teaching_loss(logits, logits).item(), 4)
        0.0
    """
    labels = [pseudo_labels(probabilities_of(z.detach(), sigmoid), sigmoid) for z in (first, second)]
    return pseudo_dice_loss(first, labels[1], sigmoid) + pseudo_dice_loss(second, labels[0], sigmoid)


@PEER_TERMS.register("distillation", "divergence between student and the teachers' mean")
@dataclass(frozen=True)
class PeerDistillationTerm(PeerTerm):
    """Distillation from networks that are trained at the same time (Choi 2022: lambda_dis).

    Source: Choi 2022, Section 2.2 (KL(P_S, P_T)), T = 1. The paper writes the student first; the usual reading, and
    that of a loss that pulls the student towards the teachers wherever these see something, is ``teacher_student``.
    ``student_teacher`` is the formula read literally.
    """

    on_labeled = True
    weight: float = number(10.0, "weight in the training loss (lambda_dis); 0 switches the term off", minimum=0)
    ramp: Ramp = value("gaussian", RAMP)
    temperature: float = number(1.0, "softmax temperature T; the term carries T^2", above=0)
    direction: Literal["teacher_student", "student_teacher"] = value(
        "teacher_student", "teacher_student: KL(teacher || student); student_teacher: the reverse"
    )

    def loss(self, outputs: PeerOutputs) -> Tensor:
        """See :func:`kl_divergence`."""
        divergence = KLDivergence(self.temperature, self.direction, outputs.sigmoid, FLOOR)
        return divergence(outputs.student, outputs.mean)


@PEER_TERMS.register(
    "cross_teaching", "weight of cross teaching among the unlabeled terms; needs two networks that do it"
)
@dataclass(frozen=True)
class CrossTeachingTerm(PeerTerm):
    """Two networks learn each other's pseudo-labels (Choi 2022: L_ctl)."""

    plain_weight = True
    weight: float = 1.0

    @classmethod
    def applies(cls, others: int, between_students: bool) -> bool:
        """Two teachers, or two students."""
        return others == (1 if between_students else 2)

    def loss(self, outputs: PeerOutputs) -> Tensor:
        """See :func:`cross_teaching_loss`."""
        first, second = (outputs.student, *outputs.others) if outputs.between_students else outputs.others
        return cross_teaching_loss(first, second, outputs.sigmoid)


@PEER_TERMS.register(
    "pseudo_supervision", "weight of the teachers' mean as pseudo-labels of the student, among the unlabeled terms"
)
@dataclass(frozen=True)
class PseudoSupervisionTerm(PeerTerm):
    """The student learns the pseudo-labels of the teachers' mean (Choi 2022: L_psv)."""

    plain_weight = True
    weight: float = 1.0

    def loss(self, outputs: PeerOutputs) -> Tensor:
        """See :func:`pseudo_dice_loss`."""
        return pseudo_dice_loss(outputs.student, pseudo_labels(outputs.mean, outputs.sigmoid), outputs.sigmoid)
