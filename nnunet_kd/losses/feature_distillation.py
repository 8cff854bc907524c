"""The feature part of a student's loss: weighted, ramped terms, summed over pairs of layers."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from nnunet_kd.losses import affinity, features
from nnunet_kd.losses.ramps import ramped_weight
from nnunet_kd.losses.term import Features, active_feature_terms

REGION_TERMS = ("region_affinity", "intra_class")


class FeatureDistillationLoss(nn.Module):
    """Feature terms between a student and one teacher, with the projection heads that some of them need.

    ``hint`` always projects the student's features to the teacher's channels by a 1 x 1 convolution, ``channel_wise``
    only where the numbers of channels differ (Romero et al. 2015, Section 2.2; Shu et al. 2021, Section 3.2). The heads
    are the only parameters here; they are trained along and belong to the training, not to the student.
    """

    def __init__(self, config: Features, channels: Sequence[tuple[int, int]], dimensions: int):
        """Sets the terms up.

        Args:
            config: terms, weights and ramps.
            channels: (student's, teacher's) number of channels of every pair of layers.
            dimensions: 2 or 3 spatial axes.
        """
        super().__init__()
        self.config = config
        self.active = active_feature_terms(config)
        c = config
        self._losses: dict[str, Callable[..., Tensor]] = {
            "importance": partial(features.importance_loss, exponent=c.importance.exponent, scale=c.importance.scale),
            "region_affinity": partial(
                affinity.region_affinity_loss, form=c.region_affinity.form, norm=c.region_affinity.norm
            ),
            "attention": partial(features.attention_transfer_loss, exponent=c.attention.exponent),
            "pairwise": partial(affinity.pairwise_loss, positions=c.pairwise.positions),
            "similarity": affinity.similarity_loss,
            "intra_class": affinity.intra_class_loss,
            "hint": features.hint_loss,
            "channel_wise": partial(features.channel_wise_loss, temperature=c.channel_wise.temperature),
        }
        convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.heads = nn.ModuleDict()
        for i, (mine, theirs) in enumerate(channels):
            for name in ("hint", "channel_wise"):
                if name in self.active and (name == "hint" or mine != theirs):
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
            mine, theirs = features.prepare(mine, theirs)
            for name in self.active:
                head = f"{name}_{i}"
                projected = self.heads[head](mine) if head in self.heads else mine
                value = self._losses[name](projected, theirs, *([regions] if name in REGION_TERMS else []))
                sums[name] = sums[name] + value if name in sums else value
        return {name: value * ramped_weight(getattr(self.config, name), progress) for name, value in sums.items()}
