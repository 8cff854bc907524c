"""Losses between networks that are trained together: cross teaching, pseudo-supervision, distillation.

Shapes: logits and probabilities ``(B, C, *spatial)``, 2D or 3D. ``sigmoid`` says that the C channels are independent
regions instead of a softmax. All voxels count. Whoever teaches is detached: it receives no gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_kd.losses.cross_teaching_settings import CrossTeaching
from nnunet_kd.losses.ramps import ramped_weight
from nnunet_kd.losses.segmentation import dice_loss

SMALLEST_PROBABILITY = 1e-8


def probabilities_of(logits: Tensor, sigmoid: bool = False) -> Tensor:
    """Softmax, or independent sigmoids for regions."""
    return logits.sigmoid() if sigmoid else logits.softmax(1)


def mean_probabilities(logits: Sequence[Tensor], sigmoid: bool = False) -> Tensor:
    """Mean of the networks' probabilities (B, C, *spatial), detached.

    Source: Choi 2022, Section 2.2 (the teachers' mean).
    """
    return torch.stack([probabilities_of(z.detach(), sigmoid) for z in logits]).mean(0)


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
    """
    labels = [pseudo_labels(probabilities_of(z.detach(), sigmoid), sigmoid) for z in (first, second)]
    return pseudo_dice_loss(first, labels[1], sigmoid) + pseudo_dice_loss(second, labels[0], sigmoid)


def online_kl_divergence(
    logits: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    direction: str = "teacher_student",
    sigmoid: bool = False,
) -> Tensor:
    r"""Kullback-Leibler divergence between a student and probabilities at hand, in nats per voxel, times T^2.

    .. math:: T^2 \frac{1}{|V|} \sum_v \sum_c q_c \log (q_c / p_c), \quad
              p = \mathrm{softmax}(z / T), \; q = \mathrm{softmax}(\log(t) / T)

    Source: Choi 2022, Section 2.2 (KL(P_S, P_T)), T = 1. The paper writes the student first; the usual reading, and
    that of a loss that pulls the student towards the teachers wherever these see something, is ``teacher_student``,
    KL(teacher || student). ``student_teacher`` is the formula read literally.

    Args:
        logits: student's logits z, (B, C, *spatial).
        teacher: probabilities t, (B, C, *spatial).
        temperature: T > 0.
        direction: ``teacher_student`` or ``student_teacher``.
        sigmoid: independent regions; the divergences of the C Bernoulli distributions are summed.
    """
    t = teacher.detach()
    if sigmoid:
        z, t = torch.stack((logits, torch.zeros_like(logits)), 2), torch.stack((t, 1 - t), 2)
    else:
        z, t = logits.unsqueeze(1), t.unsqueeze(1)
    log_p = (z / temperature).log_softmax(2)
    log_q = (t.clamp_min(SMALLEST_PROBABILITY).log() / temperature).log_softmax(2)
    if direction == "student_teacher":
        log_p, log_q = log_q, log_p
    return temperature**2 * (log_q.exp() * (log_q - log_p)).sum((1, 2)).mean()


class CrossTeachingLoss(nn.Module):
    r"""What networks that are trained together teach each other, weighted and ramped.

    .. math:: \lambda_\mathrm{dis} KL_\mathrm{labeled} +
              \lambda_\mathrm{ssl} (L_\mathrm{ctl} + L_\mathrm{psv} + \lambda_\mathrm{dis} KL_\mathrm{unlabeled})

    Source: Choi 2022, Section 2.2; the supervised loss is not part of it.
    """

    def __init__(self, config: CrossTeaching, sigmoid: bool):
        """Args:
        config: weights, ramps and switches.
        sigmoid: region-based labels.
        """
        super().__init__()
        self.config, self.sigmoid = config, sigmoid

    def terms(self) -> tuple[str, ...]:
        """Names of the terms that :meth:`forward` returns."""
        c = self.config
        semi = c.unlabeled.weight > 0
        active = {
            "distillation": bool(c.distills),
            "distillation_unlabeled": bool(c.distills and semi),
            "cross_teaching": bool(c.crosses and semi),
            "pseudo_supervision": bool(c.supervises and semi),
        }
        return tuple(name for name, on in active.items() if on)

    def forward(self, student: Tensor, others: Sequence[Tensor], labeled: int, progress: float) -> dict[str, Tensor]:
        """Value of each active term.

        Args:
            student: logits of the student (B, C, *spatial), the labeled cases first.
            others: logits of the other networks: two teachers, one, or the second student.
            labeled: number of labeled cases.
            progress: fraction of the training that has passed, in [0, 1].
        """
        c, names = self.config, self.terms()
        distil = ramped_weight(c.distillation, progress)
        semi = ramped_weight(c.unlabeled, progress)
        mean = mean_probabilities(others, self.sigmoid) if c.distills or c.supervises else None
        values: dict[str, Tensor] = {}
        for name, part, weight in (
            ("distillation", slice(0, labeled), distil),
            ("distillation_unlabeled", slice(labeled, None), semi * distil),
        ):
            if name in names and mean is not None:
                values[name] = weight * online_kl_divergence(
                    student[part],
                    mean[part],
                    temperature=c.distillation.temperature,
                    direction=c.distillation.direction,
                    sigmoid=self.sigmoid,
                )
        if "cross_teaching" in names:
            pair = (student, others[0]) if c.between == "students" else (others[0], others[1])
            crossed = cross_teaching_loss(pair[0][labeled:], pair[1][labeled:], self.sigmoid)
            values["cross_teaching"] = semi * c.cross_teaching_weight * crossed
        if "pseudo_supervision" in names and mean is not None:
            labels = pseudo_labels(mean[labeled:], self.sigmoid)
            supervised = pseudo_dice_loss(student[labeled:], labels, self.sigmoid)
            values["pseudo_supervision"] = semi * c.pseudo_supervision_weight * supervised
        return values
