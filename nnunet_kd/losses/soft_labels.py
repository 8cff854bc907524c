"""What the losses between a student's logits and soft labels share.

Shapes: logits and soft labels ``(B, C, *spatial)``, 2D or 3D; ``valid`` ``(B, 1, *spatial)``, nonzero where a voxel
counts. Without any valid voxel a loss is 0. ``sigmoid`` says that the C channels are independent regions instead of a
softmax. Half-precision inputs are promoted to float32. Soft labels never receive a gradient.

Each loss is a function, a module whose ``compare`` takes a :class:`Comparison` (losses of one comparison share its
softmax), and a term with its settings, in a file of its own: ``kl.py``, ``mse.py``, ``soft_ce.py``, ``soft_dice.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnunet_kd.losses.ramps import ramp
from nnunet_kd.losses.term import Term, TermRegistry

Tempered = Callable[[float], Tensor]  # temperature -> the teachers' probabilities at it, (B, C, *spatial)


class Comparison:
    """A student's logits beside the soft labels for them, checked and masked, with what several losses need of both.

    What is not valid is replaced by 0 before any arithmetic: a NaN times a mask of 0 would still be NaN.

    Attributes:
        logits: (B, C, *spatial), float32 or float64.
        soft_labels: (B, C, *spatial), detached.
        valid: (B, 1, *spatial), the weight of every voxel (1 unless weights are given) or 0, of the logits' type.
        weighted: soft labels times the voxels' weights.
        sigmoid: the channels are independent regions.
        log_tempered: temperature -> logarithms of the teachers' probabilities at it, (B, C, *spatial); for regions
            (B, C, *spatial, 2), region and not region. None where only probabilities are known.
    """

    def __init__(
        self,
        logits: Tensor,
        soft_labels: Tensor,
        valid: Tensor | None = None,
        sigmoid: bool = False,
        weights: Tensor | None = None,
        log_tempered: Tempered | None = None,
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
        self.sigmoid, self.log_tempered = sigmoid, log_tempered
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
        # by hand: torch.compile does not take functools.cached_property in Python 3.11
        self._log_softmax: Tensor | None = None
        self._probabilities: Tensor | None = None

    @property
    def log_softmax(self) -> Tensor:
        """Logarithms of the student's probabilities, (B, C, *spatial); for classes, not for regions."""
        if self._log_softmax is None:
            self._log_softmax = self.logits.log_softmax(1)
        return self._log_softmax

    @property
    def probabilities(self) -> Tensor:
        """The student's probabilities, (B, C, *spatial)."""
        if self._probabilities is None:
            self._probabilities = self.logits.sigmoid() if self.sigmoid else self.log_softmax.exp()
        return self._probabilities

    def mean(self, per_voxel: Tensor) -> Tensor:
        """Mean over the valid voxels of (B, 1, *spatial), which is already weighted; 0 without any."""
        return per_voxel.sum() / self.valid.sum().clamp_min(torch.finfo(self.valid.dtype).tiny)


class SoftLabelLoss(nn.Module):
    """What the modules share: called with tensors, or :meth:`compare` with what other losses use too."""

    sigmoid: bool

    def forward(self, logits: Tensor, soft_labels: Tensor, valid: Tensor | None = None) -> Tensor:
        """The loss of logits (B, C, *spatial) against soft labels; a scalar."""
        return self.compare(Comparison(logits, soft_labels, valid, self.sigmoid))

    def compare(self, comparison: Comparison) -> Tensor:
        """The loss of a comparison; a scalar."""
        raise NotImplementedError


@dataclass(frozen=True)
class SoftLabelTerm(Term):
    """Settings of a term between the student's output and soft labels."""

    @property
    def fades(self) -> bool:
        """Whether voxels with a reference leave the term."""
        return self.ramp == "fade"

    def share_at(self, progress: float) -> float:
        """What a voxel with a reference counts in the term, beside 1 of a voxel without one.

        Soft labels that fade make room for the reference, so voxels that have none keep them.

        Args:
            progress: fraction of the training that has passed, in [0, 1].
        """
        return ramp(self.ramp, progress, self.ramp_length) if self.fades else 1.0

    def weight_of(self, progress: float, known: Tensor | float) -> Tensor | float:
        """The ramped weight in a batch; of one that fades the mean over voxels with and without a reference.

        Args:
            progress: fraction of the training that has passed, in [0, 1].
            known: fraction of the voxels that have a reference, in [0, 1].
        """
        if self.fades:
            return self.weight * (1 - known * (1 - self.share_at(progress)))
        return self.weight_at(progress)

    def build(self, sigmoid: bool, ddp: bool) -> SoftLabelLoss:
        """The loss with these settings.

        Args:
            sigmoid: region-based labels.
            ddp: whether this process is one of several that train one network.
        """
        raise NotImplementedError


SOFT_LABEL_TERMS: TermRegistry[SoftLabelTerm] = TermRegistry("soft-label term")
