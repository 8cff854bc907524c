"""Kullback-Leibler divergence with temperature."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nnunet_kd.losses.soft_labels import SOFT_LABEL_TERMS, Comparison, SoftLabelLoss, SoftLabelTerm
from nnunet_kd.utilities.schema import number, value

# A stored 0 stands for a probability below 1/510. A quarter of that bounds what one wrong zero can cost; tempered with
# T = 2 it leaves such a class 2 %, no more than a network's own tail has.
STORED_FLOOR = 5e-4


def kl_divergence(
    logits: Tensor,
    soft_labels: Tensor,
    valid: Tensor | None = None,
    *,
    temperature: float = 2.0,
    direction: str = "teacher_student",
    sigmoid: bool = False,
    floor: float = STORED_FLOOR,
) -> Tensor:
    r"""Kullback-Leibler divergence at temperature T, in nats per voxel, times T^2.

    .. math:: T^2 \frac{1}{|V|} \sum_{v \in V} \sum_c q_c \log (q_c / p_c), \quad
              p = \mathrm{softmax}(z / T), \; q = \mathrm{softmax}(\log(t) / T)

    Source: Hinton et al. 2015, Section 2 (temperature and T^2); Qin et al. 2021, Eq. 1.

    Args:
        logits: student's logits z, (B, C, *spatial).
        soft_labels: teacher's probabilities t at temperature 1, (B, C, *spatial).
        valid: (B, 1, *spatial); None counts every voxel.
        temperature: T > 0.
        direction: ``teacher_student`` for KL(teacher || student), ``student_teacher`` for the reverse.
        sigmoid: independent regions; the divergences of the C Bernoulli distributions are summed.
        floor: smallest probability of the teacher, > 0; the default is for what has been stored in 1/255.

    Raises:
        ValueError: for shapes that do not fit, another direction, or a temperature that is not positive.

    Deviations: probabilities are tempered through log(max(t, floor)). Teachers in memory are tempered from their own
    logits, as the formula has it.

    Example:
        >>> logits = torch.tensor([[[2.0], [0.0]]])
        >>> round(kl_divergence(logits, logits.softmax(1)).item(), 6)
        0.0
        >>> round(kl_divergence(-logits, logits.softmax(1), temperature=1.0).item(), 4)
        1.5232
    """
    return KLDivergence(temperature, direction, sigmoid, floor)(logits, soft_labels, valid)


class KLDivergence(SoftLabelLoss):
    """Module of :func:`kl_divergence`.

    Example:
        >>> logits = torch.randn(1, 3, 4, 4)
        >>> round(abs(KLDivergence(temperature=1.0)(logits, logits.softmax(1)).item()), 4)
        0.0
    """

    def __init__(
        self,
        temperature: float = 2.0,
        direction: str = "teacher_student",
        sigmoid: bool = False,
        floor: float = STORED_FLOOR,
    ):
        """Arguments as those of the function."""
        super().__init__()
        if direction not in ("teacher_student", "student_teacher"):
            raise ValueError(f"direction {direction!r}: expected 'teacher_student' or 'student_teacher'")
        if not temperature > 0:
            raise ValueError(f"temperature {temperature!r}: expected a number > 0")
        self.temperature, self.direction, self.sigmoid, self.floor = temperature, direction, sigmoid, floor

    def compare(self, comparison: Comparison) -> Tensor:
        """See :func:`kl_divergence`."""
        z = comparison.logits
        if self.sigmoid:  # a Bernoulli distribution is a softmax over {region, not region}
            z = torch.stack((z, torch.zeros_like(z)), -1)  # (B, R, *spatial, 2)
        over = -1 if self.sigmoid else 1
        log_p = (z / self.temperature).log_softmax(over)
        log_q = self._log_teacher(comparison, over)
        if self.direction == "student_teacher":
            log_p, log_q = log_q, log_p
        per_class = log_q.exp() * (log_q - log_p)
        if self.sigmoid:
            per_class = per_class.sum(-1)
        per_voxel = per_class.sum(1, keepdim=True) * comparison.valid  # (B, 1, *spatial)
        return self.temperature**2 * comparison.mean(per_voxel)

    def _log_teacher(self, comparison: Comparison, over: int) -> Tensor:
        """Logarithms of the teacher's tempered probabilities; from its logits where they are known."""
        if comparison.log_tempered is not None:
            return comparison.log_tempered(self.temperature).to(comparison.logits.dtype)
        t = comparison.soft_labels.clamp_min(self.floor)
        if self.sigmoid:
            t = torch.stack((t, (1 - comparison.soft_labels).clamp_min(self.floor)), -1)
        return (t.log() / self.temperature).log_softmax(over)


@SOFT_LABEL_TERMS.register("kl", "Kullback-Leibler divergence, nats per voxel")
@dataclass(frozen=True)
class KLTerm(SoftLabelTerm):
    """Kullback-Leibler divergence with temperature (Hinton et al. 2015)."""

    temperature: float = number(2.0, "softmax temperature T; the term carries T^2", above=0)
    direction: Literal["teacher_student", "student_teacher"] = value(
        "teacher_student", "teacher_student: KL(teacher || student); student_teacher: the reverse"
    )

    def build(self, sigmoid: bool, ddp: bool) -> KLDivergence:
        """See :class:`SoftLabelTerm`."""
        return KLDivergence(self.temperature, self.direction, sigmoid)
