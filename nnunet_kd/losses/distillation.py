"""The distillation part of a student's loss: weighted, ramped, deeply supervised terms against soft labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nnunet_kd.losses.hard_loss import HardLoss
from nnunet_kd.losses.soft_labels import Comparison, SoftLabelTerm
from nnunet_kd.losses.soft_targets import SoftTargets, resize
from nnunet_kd.losses.term import TermSettings
from nnunet_kd.losses.voxel_weights import voxel_weights
from nnunet_kd.utilities.schema import value


@dataclass(frozen=True)
class DistillationSettings(TermSettings[SoftLabelTerm]):
    """Terms between the student's output and the teachers' probabilities, stored or predicted in memory."""

    deep_supervision: bool = value(True, "also at the lower-resolution outputs, with nnU-Net's weights")
    downsampling: Literal["mean", "nearest"] = value(
        "mean",
        "soft labels at the lower-resolution outputs; mean: of the voxels that one covers; nearest: the voxel that "
        "nnU-Net takes of the reference, half a voxel away from the mean's",
    )
    normalized: bool = value(
        True,
        "scales hard-label loss and soft-label terms so that their weights sum to those of the hard-label loss alone: "
        "student and undistilled twin then take steps of one size",
    )

    def fades(self) -> bool:
        """Whether voxels with a reference leave a term."""
        return any(term.fades for term in self.active().values())


def known_share(reference: Tensor | None) -> Tensor | float:
    """Fraction of the voxels that have a reference.

    Args:
        reference: the voxels that have one, bool, (B, 1, *spatial); None: all of them.
    """
    return 1.0 if reference is None else reference.float().mean()


def common_scale(
    config: DistillationSettings, hard: HardLoss, progress: float, reference: Tensor | None = None
) -> Tensor | float:
    r"""Factor of hard-label loss and soft-label terms that keeps the sum of all weights that of the hard loss alone.

    .. math:: s = \frac{h}{w h + \sum_i w_i(t)}

    with the weights h of the parts of the hard-label loss, its own weight w and those of the terms at progress t in
    this batch. So a student differs from its undistilled twin in what it aims at, not in the size of its steps
    (optimizers such as SGD follow the size; Adam divides it out). 1 where ``config.normalized`` is off, or no weight is
    left.
    """
    known = known_share(reference)
    soft = sum(term.weight_of(progress, known) for term in config.active().values())
    total = hard.weight * hard.parts + soft
    return hard.parts / total if config.normalized and hard.parts * total > 0 else 1.0


class DistillationLoss(nn.Module):
    """Weighted distillation terms of a student's outputs.

    Source: Noothout et al. 2022, Eq. 1 (L_s); Hinton et al. 2015, Section 2.

    Example:
        >>> from nnunet_kd.config import Distillation
        >>> logits = torch.randn(2, 3, 8, 8)
        >>> loss = DistillationLoss(Distillation(), sigmoid=False, deep_supervision_weights=[1.0])
        >>> sorted(loss(logits, SoftTargets(logits.softmax(1)), progress=0.0))
        ['soft_ce', 'soft_dice']
    """

    def __init__(
        self, config: DistillationSettings, sigmoid: bool, deep_supervision_weights: Sequence[float], ddp: bool = False
    ):
        """Sets the terms up.

        Args:
            config: terms, weights and ramps.
            sigmoid: region-based labels.
            deep_supervision_weights: weight of each output, highest resolution first; one weight without deep
                supervision.
            ddp: whether this process is one of several that train one network.
        """
        super().__init__()
        self.config = config
        self.sigmoid = sigmoid
        self.output_weights = tuple(deep_supervision_weights) if config.deep_supervision else (1.0,)
        self.terms = config.active()
        self.losses = {name: term.build(sigmoid, ddp) for name, term in self.terms.items()}

    def forward(
        self,
        outputs: Tensor | Sequence[Tensor],
        targets: SoftTargets,
        progress: float,
        unlabeled: int = 0,
        voxel_weight: str = "none",
        reference: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Value of each active term, weighted and ramped.

        Args:
            outputs: logits (B, C, *spatial), or a sequence of them, highest resolution first.
            targets: soft labels of the batch, at the highest resolution.
            progress: fraction of the training that has passed, in [0, 1].
            unlabeled: number of unlabeled cases, the last ones of the batch.
            voxel_weight: how the unlabeled cases' voxels are weighted, see :func:`voxel_weights`.
            reference: the voxels that have one, bool, (B, 1, *spatial), which leave terms that fade; None: all of
                them.

        Raises:
            ValueError: when the number of outputs is not that of the weights.
        """
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        if not self.config.deep_supervision:
            outputs = outputs[:1]
        if len(outputs) != len(self.output_weights):
            raise ValueError(f"{len(outputs)} outputs, but {len(self.output_weights)} deep-supervision weights")
        if not self.terms:
            return {}
        share = known_share(reference)
        sums: dict[str, Tensor] = {}
        here, known = targets, None if reference is None else reference.to(targets.probabilities.dtype)
        whole = known
        for logits, output_weight in zip(outputs, self.output_weights, strict=True):
            if output_weight == 0:
                continue
            # a mean of the output before, already smaller; the nearest voxel is one of the whole patch
            source, mask = (here, known) if self.config.downsampling == "mean" else (targets, whole)
            here = source.resized(logits.shape[2:], self.config.downsampling)
            known = None if mask is None else resize(mask, logits.shape[2:], self.config.downsampling)
            comparisons: dict[float, Comparison] = {}  # shared by the terms in which known voxels count alike
            for name, loss in self.losses.items():
                known_counts = 1.0 if known is None else self.terms[name].share_at(progress)
                if known_counts not in comparisons:
                    voxels = self._voxel_weights(here.probabilities, unlabeled, voxel_weight, known, known_counts)
                    comparisons[known_counts] = Comparison(
                        logits, here.probabilities, here.valid, self.sigmoid, voxels, log_tempered=here.log_tempered
                    )
                part = output_weight * loss.compare(comparisons[known_counts])
                sums[name] = sums[name] + part if name in sums else part
        return {name: total * self.terms[name].weight_of(progress, share) for name, total in sums.items()}

    def _voxel_weights(
        self, soft_labels: Tensor, unlabeled: int, kind: str, known: Tensor | None, counts: float
    ) -> Tensor | None:
        """(B, 1, *spatial): ``counts`` where there is a reference, and how sure the teachers are of unlabeled cases.

        None: 1 everywhere.
        """
        weights = None
        if unlabeled and kind != "none":
            labeled = torch.ones_like(soft_labels[:-unlabeled, :1])
            weights = torch.cat((labeled, voxel_weights(soft_labels[-unlabeled:], kind, self.sigmoid)))
        if known is not None and counts < 1:
            kept = 1 - (1 - counts) * known
            weights = kept if weights is None else kept * weights
        return weights
