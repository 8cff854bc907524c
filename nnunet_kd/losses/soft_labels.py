"""Losses between a student's logits and stored soft labels.

Shapes: logits and soft labels ``(B, C, *spatial)``, 2D or 3D; ``valid`` ``(B, 1, *spatial)``, nonzero where a voxel
counts. Without any valid voxel a loss is 0. ``sigmoid`` says that the C channels are independent regions instead of a
softmax. Half-precision inputs are promoted to float32. Soft labels never receive a gradient.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A stored 0 stands for a probability below 1/510. A quarter of that bounds what one wrong zero can cost; tempered with
# T = 2 it leaves such a class 2 %, no more than a network's own tail has.
SMALLEST_PROBABILITY = 5e-4


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
    logits, soft_labels, valid = _prepare(logits, soft_labels, valid)
    if direction not in ("teacher_student", "student_teacher"):
        raise ValueError(f"direction {direction!r}: expected 'teacher_student' or 'student_teacher'")
    if not temperature > 0:
        raise ValueError(f"temperature {temperature!r}: expected a number > 0")
    t = soft_labels.clamp_min(SMALLEST_PROBABILITY)
    if sigmoid:
        # A Bernoulli distribution is a softmax over {region, not region}.
        not_t = (1 - soft_labels).clamp_min(SMALLEST_PROBABILITY)
        z = torch.stack((logits, torch.zeros_like(logits)), -1) / temperature
        log_p, log_q = z.log_softmax(-1), (torch.stack((t, not_t), -1).log() / temperature).log_softmax(-1)
    else:
        log_p = (logits / temperature).log_softmax(1).unsqueeze(-1)
        log_q = (t.log() / temperature).log_softmax(1).unsqueeze(-1)
    if direction == "student_teacher":
        log_p, log_q = log_q, log_p
    per_voxel = (log_q.exp() * (log_q - log_p)).sum((1, -1))
    return temperature**2 * _masked_mean(per_voxel.unsqueeze(1), valid)


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
    logits, soft_labels, valid = _prepare(logits, soft_labels, valid)
    return _masked_mean((_probabilities(logits, sigmoid) - soft_labels).square().mean(1, keepdim=True), valid)


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
    logits, soft_labels, valid = _prepare(logits, soft_labels, valid)
    if sigmoid:
        per_class = F.binary_cross_entropy_with_logits(logits, soft_labels, reduction="none")
    else:
        per_class = -soft_labels * logits.log_softmax(1)
    return _masked_mean(per_class.sum(1, keepdim=True), valid)


def soft_dice_loss(
    logits: Tensor,
    soft_labels: Tensor,
    valid: Tensor | None = None,
    *,
    batch_dice: bool = True,
    smooth: float = 1e-5,
    sigmoid: bool = False,
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

    Raises:
        ValueError: for shapes that do not fit, or a softmax without a foreground class.
    """
    logits, soft_labels, valid = _prepare(logits, soft_labels, valid)
    first = 0 if sigmoid else 1
    if logits.shape[1] <= first:
        raise ValueError(f"logits {tuple(logits.shape)}: a softmax needs background and at least one foreground class")
    p, t = _probabilities(logits, sigmoid)[:, first:], soft_labels[:, first:]
    axes = [0] * batch_dice + list(range(2, p.ndim))
    overlap = (p * t * valid).sum(axes)
    total = ((p.square() + t.square()) * valid).sum(axes)
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


class KLDivergence(nn.Module):
    """Module of :func:`kl_divergence`."""

    def __init__(self, temperature: float = 2.0, direction: str = "teacher_student", sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.temperature, self.direction, self.sigmoid = temperature, direction, sigmoid

    def forward(self, logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """See :func:`kl_divergence`."""
        return kl_divergence(
            logits, soft_labels, valid, temperature=self.temperature, direction=self.direction, sigmoid=self.sigmoid
        )


class MSEOfProbabilities(nn.Module):
    """Module of :func:`mse_of_probabilities`."""

    def __init__(self, sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.sigmoid = sigmoid

    def forward(self, logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """See :func:`mse_of_probabilities`."""
        return mse_of_probabilities(logits, soft_labels, valid, sigmoid=self.sigmoid)


class SoftCrossEntropy(nn.Module):
    """Module of :func:`soft_cross_entropy`."""

    def __init__(self, sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.sigmoid = sigmoid

    def forward(self, logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """See :func:`soft_cross_entropy`."""
        return soft_cross_entropy(logits, soft_labels, valid, sigmoid=self.sigmoid)


class SoftDiceLoss(nn.Module):
    """Module of :func:`soft_dice_loss`."""

    def __init__(self, batch_dice: bool = True, smooth: float = 1e-5, sigmoid: bool = False):
        """Arguments as those of the function."""
        super().__init__()
        self.batch_dice, self.smooth, self.sigmoid = batch_dice, smooth, sigmoid

    def forward(self, logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """See :func:`soft_dice_loss`."""
        return soft_dice_loss(
            logits, soft_labels, valid, batch_dice=self.batch_dice, smooth=self.smooth, sigmoid=self.sigmoid
        )


def _prepare(logits: Tensor, soft_labels: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Checks shapes, promotes half precision, detaches the soft labels, makes the mask a float (B, 1, *spatial).

    What is not valid is replaced by 0 before any arithmetic: a NaN times a mask of 0 would still be NaN.
    """
    if logits.shape != soft_labels.shape or logits.ndim < 3:
        raise ValueError(
            f"logits {tuple(logits.shape)} and soft labels {tuple(soft_labels.shape)} must both be (B, C, *spatial)"
        )
    if valid is not None and valid.shape != (logits.shape[0], 1, *logits.shape[2:]):
        raise ValueError(f"valid {tuple(valid.shape)} must be {(logits.shape[0], 1, *logits.shape[2:])}")
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, soft_labels = logits.to(dtype), soft_labels.detach().to(dtype)
    if valid is None:
        return logits, soft_labels, torch.ones_like(logits[:, :1])
    outside = valid == 0
    return logits.masked_fill(outside, 0), soft_labels.masked_fill(outside, 0), (~outside).to(dtype)


def _probabilities(logits: Tensor, sigmoid: bool) -> Tensor:
    return logits.sigmoid() if sigmoid else logits.softmax(1)


def _masked_mean(per_voxel: Tensor, valid: Tensor) -> Tensor:
    """Mean of (B, 1, *spatial) over the voxels of the mask; 0 without any."""
    return (per_voxel * valid).sum() / valid.sum().clamp_min(1)
