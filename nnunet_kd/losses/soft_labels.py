"""Losses between a student's logits and stored soft labels.

Shapes: logits and soft labels ``(B, C, *spatial)``, 2D or 3D; ``valid`` ``(B, 1, *spatial)``, nonzero where a voxel
counts. Without any valid voxel a loss is 0. ``sigmoid`` says that the C channels are independent regions instead of a
softmax. Half-precision inputs are promoted to float32. Soft labels never receive a gradient.

Each loss is a function, and a module whose ``of`` takes a :class:`Pair`: terms of one pair share its softmax.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnunet_kd.utilities.ranks import sum_over_ranks

# A stored 0 stands for a probability below 1/510. A quarter of that bounds what one wrong zero can cost; tempered with
# T = 2 it leaves such a class 2 %, no more than a network's own tail has.
SMALLEST_PROBABILITY = 5e-4


class Pair:
    """A student's logits and the soft labels for them, checked and masked, with what several losses need of both.

    What is not valid is replaced by 0 before any arithmetic: a NaN times a mask of 0 would still be NaN.

    Attributes:
        logits: (B, C, *spatial), float32 or float64.
        soft_labels: (B, C, *spatial), detached.
        valid: (B, 1, *spatial), the weight of every voxel (1 unless weights are given) or 0, of the logits' type.
        weighted: soft labels times the voxels' weights.
        sigmoid: the channels are independent regions.
    """

    def __init__(
        self,
        logits: Tensor,
        soft_labels: Tensor,
        valid: Tensor | None = None,
        sigmoid: bool = False,
        weights: Tensor | None = None,
    ):
        """Arguments as those of the losses; ``weights`` (B, 1, *spatial) >= 0 are what valid voxels count.

        Raises:
            ValueError: for shapes that do not fit.
        """
        if logits.shape != soft_labels.shape or logits.ndim < 3:
            raise ValueError(
                f"logits {tuple(logits.shape)} and soft labels {tuple(soft_labels.shape)} must both be (B, C, *spatial)"
            )
        if valid is not None and valid.shape != (logits.shape[0], 1, *logits.shape[2:]):
            raise ValueError(f"valid {tuple(valid.shape)} must be {(logits.shape[0], 1, *logits.shape[2:])}")
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self.sigmoid = sigmoid
        self.logits, self.soft_labels = logits.to(dtype), soft_labels.detach().to(dtype)
        if valid is None:
            self.valid = torch.ones_like(self.logits[:, :1])
        else:
            outside = valid == 0
            self.logits = self.logits.masked_fill(outside, 0)
            self.soft_labels = self.soft_labels.masked_fill(outside, 0)
            self.valid = (~outside).to(dtype)
        self.weighted = self.soft_labels
        if weights is not None:
            self.valid = self.valid * weights
            self.weighted = self.soft_labels * weights
        self._log_softmax: Tensor | None = None
        self._probabilities: Tensor | None = None

    def log_softmax(self) -> Tensor:
        """Logarithms of the student's probabilities, (B, C, *spatial); for classes, not for regions."""
        if self._log_softmax is None:
            self._log_softmax = self.logits.log_softmax(1)
        return self._log_softmax

    def probabilities(self) -> Tensor:
        """The student's probabilities, (B, C, *spatial)."""
        if self._probabilities is None:
            self._probabilities = self.logits.sigmoid() if self.sigmoid else self.log_softmax().exp()
        return self._probabilities

    def mean(self, summed: Tensor) -> Tensor:
        """A sum over valid voxels, divided by their number; 0 without any."""
        return summed / self.valid.sum().clamp_min(1)


def kl_divergence(
    logits: Tensor,
    soft_labels: Tensor,
    valid: Tensor | None = None,
    *,
    temperature: float = 2.0,
    direction: str = "teacher_student",
    sigmoid: bool = False,
) -> Tensor:
    r"""Kullback-Leibler divergence at temperature T, in nats per voxel, times T^2.

    .. math:: T^2 \frac{1}{|V|} \sum_{v \in V} \sum_c q_c \log (q_c / p_c), \quad
              p = \mathrm{softmax}(z / T), \; q = \mathrm{softmax}(\log(t) / T)

    Source: Hinton et al. 2015, Section 2 (temperature and T^2).

    Args:
        logits: student's logits z, (B, C, *spatial).
        soft_labels: teacher's probabilities t at temperature 1, (B, C, *spatial).
        valid: (B, 1, *spatial); None counts every voxel.
        temperature: T > 0.
        direction: ``teacher_student`` for KL(teacher || student), ``student_teacher`` for the reverse.
        sigmoid: independent regions; the divergences of the C Bernoulli distributions are summed.

    Raises:
        ValueError: for shapes that do not fit, another direction, or a temperature that is not positive.

    Deviations: the store holds probabilities, so the teacher is tempered through log(max(t, 5e-4)).
    """
    return KLDivergence(temperature, direction, sigmoid)(logits, soft_labels, valid)


def mse_of_probabilities(
    logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None, *, sigmoid: bool = False
) -> Tensor:
    r"""Mean squared error between the student's probabilities and the soft labels; mean over classes and valid voxels.

    .. math:: \frac{1}{|V| C} \sum_{v \in V} \sum_c (p_c - t_c)^2

    Source: Noothout et al. 2022, Eq. 1 (L_s).

    Args:
        logits: (B, C, *spatial).
        soft_labels: (B, C, *spatial).
        valid: (B, 1, *spatial); None counts every voxel.
        sigmoid: independent regions.

    Raises:
        ValueError: for shapes that do not fit.
    """
    return MSEOfProbabilities(sigmoid)(logits, soft_labels, valid)


def soft_cross_entropy(
    logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None, *, sigmoid: bool = False
) -> Tensor:
    r"""Cross-entropy with soft targets, in nats per voxel; its minimum is the entropy of the soft labels, not 0.

    .. math:: -\frac{1}{|V|} \sum_{v \in V} \sum_c t_c \log p_c

    Source: Hinton et al. 2015, Section 2 (soft targets at T = 1).

    Args:
        logits: (B, C, *spatial).
        soft_labels: (B, C, *spatial).
        valid: (B, 1, *spatial); None counts every voxel.
        sigmoid: independent regions; the binary cross-entropies are summed.

    Raises:
        ValueError: for shapes that do not fit.
    """
    return SoftCrossEntropy(sigmoid)(logits, soft_labels, valid)


def soft_dice_loss(
    logits: Tensor,
    soft_labels: Tensor,
    valid: Tensor | None = None,
    *,
    batch_dice: bool = True,
    smooth: float = 1e-5,
    sigmoid: bool = False,
    ddp: bool = False,
) -> Tensor:
    r"""1 - Dice between the student's probabilities and the soft labels, mean over foreground classes or regions.

    .. math:: 1 - \frac{2 \sum_v p t + s}{\sum_v p^2 + \sum_v t^2 + s}

    Source: Milletari et al. 2016 (V-Net), Section 3. The squared denominator makes the loss 0 exactly at p = t;
    nnU-Net's sum p + sum t would push a student beyond its soft labels towards hard ones.

    Args:
        logits: (B, C, *spatial).
        soft_labels: (B, C, *spatial).
        valid: (B, 1, *spatial); None counts every voxel.
        batch_dice: sums over the batch before the ratio; otherwise one ratio per image.
        smooth: s; makes a class that neither has cost 0.
        sigmoid: independent regions, all of which count; with a softmax the background (channel 0) is left out.
        ddp: with ``batch_dice``, sums over the batches of all ranks, as nnU-Net's Dice does.

    Raises:
        ValueError: for shapes that do not fit, or a softmax without a foreground class.
    """
    return SoftDiceLoss(batch_dice, smooth, sigmoid, ddp)(logits, soft_labels, valid)


class SoftLabelLoss(nn.Module):
    """What the modules share: called with tensors, or ``of`` a pair that other losses use too."""

    sigmoid: bool

    def forward(self, logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """The loss of logits (B, C, *spatial) against soft labels; a scalar."""
        return self.of(Pair(logits, soft_labels, valid, self.sigmoid))

    def of(self, pair: Pair) -> Tensor:
        """The loss of a pair; a scalar."""
        raise NotImplementedError


class KLDivergence(SoftLabelLoss):
    """Module of :func:`kl_divergence`."""

    def __init__(self, temperature: float = 2.0, direction: str = "teacher_student", sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        if direction not in ("teacher_student", "student_teacher"):
            raise ValueError(f"direction {direction!r}: expected 'teacher_student' or 'student_teacher'")
        if not temperature > 0:
            raise ValueError(f"temperature {temperature!r}: expected a number > 0")
        self.temperature, self.direction, self.sigmoid = temperature, direction, sigmoid

    def of(self, pair: Pair) -> Tensor:
        """See :func:`kl_divergence`."""
        z, t = pair.logits, pair.soft_labels.clamp_min(SMALLEST_PROBABILITY)
        if self.sigmoid:
            # A Bernoulli distribution is a softmax over {region, not region}.
            not_t = (1 - pair.soft_labels).clamp_min(SMALLEST_PROBABILITY)
            z, t = torch.stack((z, torch.zeros_like(z)), -1), torch.stack((t, not_t), -1)
        over = -1 if self.sigmoid else 1
        log_p, log_q = ((x / self.temperature).log_softmax(over) for x in (z, t.log()))
        if self.direction == "student_teacher":
            log_p, log_q = log_q, log_p
        per_class = log_q.exp() * (log_q - log_p)
        if self.sigmoid:
            per_class = per_class.sum(-1)
        return self.temperature**2 * pair.mean((per_class.sum(1, keepdim=True) * pair.valid).sum())


class MSEOfProbabilities(SoftLabelLoss):
    """Module of :func:`mse_of_probabilities`."""

    def __init__(self, sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.sigmoid = sigmoid

    def of(self, pair: Pair) -> Tensor:
        """See :func:`mse_of_probabilities`."""
        squared = (pair.probabilities() - pair.soft_labels).square().mean(1, keepdim=True)
        return pair.mean((squared * pair.valid).sum())


class SoftCrossEntropy(SoftLabelLoss):
    """Module of :func:`soft_cross_entropy`."""

    def __init__(self, sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.sigmoid = sigmoid

    def of(self, pair: Pair) -> Tensor:
        """See :func:`soft_cross_entropy`."""
        if self.sigmoid:
            per_class = F.binary_cross_entropy_with_logits(pair.logits, pair.soft_labels, reduction="none")
            return pair.mean((per_class * pair.valid).sum())
        return pair.mean(-(pair.weighted * pair.log_softmax()).sum())  # soft labels are 0 where not valid


class SoftDiceLoss(SoftLabelLoss):
    """Module of :func:`soft_dice_loss`."""

    def __init__(self, batch_dice: bool = True, smooth: float = 1e-5, sigmoid: bool = False, ddp: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.batch_dice, self.smooth, self.sigmoid, self.ddp = batch_dice, smooth, sigmoid, ddp

    def of(self, pair: Pair) -> Tensor:
        """See :func:`soft_dice_loss`."""
        first = 0 if self.sigmoid else 1
        if pair.logits.shape[1] <= first:
            raise ValueError(
                f"logits {tuple(pair.logits.shape)}: a softmax needs background and at least one foreground class"
            )
        p, t, weighted = (x[:, first:] for x in (pair.probabilities(), pair.soft_labels, pair.weighted))
        axes = [0] * self.batch_dice + list(range(2, p.ndim))
        overlap = (p * weighted).sum(axes)  # soft labels are 0 where not valid
        total = (p.square() * pair.valid).sum(axes) + (t * weighted).sum(axes)
        if self.ddp and self.batch_dice:
            overlap, total = sum_over_ranks(torch.stack((overlap, total)))
        return 1 - ((2 * overlap + self.smooth) / (total + self.smooth)).mean()
