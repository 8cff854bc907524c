r"""Which channels of the teacher a narrower student keeps.

The importance of a channel a is the first-order Taylor expansion of what the teacher's loss would change without it,

.. math:: I_c = \mathrm{mean}_{patches} \big| \sum_v a_{cv} \, \partial L / \partial a_{cv} \big|

Source: Molchanov et al. 2019, "Importance estimation for neural network pruning", Eq. 8, for feature maps as Molchanov
et al. 2017.

The most important channels may be redundant. Channels are therefore added one by one, each time the one
that explains most of what the chosen ones leave of all channels, weighted by their importance: forward selection with
the conditional covariance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ChannelStatistics:
    """Importance (C,), and sums of a (C,) and a a^T (C, C) over sampled places, in float64."""

    importance: Tensor
    sums: Tensor
    products: Tensor
    places: int = 0

    @classmethod
    def zeros(cls, channels: int, device: torch.device) -> "ChannelStatistics":
        """Before the first batch."""
        device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        vector = torch.zeros(channels, dtype=torch.float64, device=device)
        return cls(vector, vector.clone(), torch.outer(vector, vector))

    def add(self, importance: Tensor, sampled: Tensor) -> None:
        """Adds a batch: the importance of each channel (C,), values at sampled places (N, C)."""
        sampled = sampled.to(self.products)
        self.importance += importance.to(self.importance)
        self.sums += sampled.sum(0)
        self.products += sampled.T @ sampled
        self.places += len(sampled)

    @property
    def covariance(self) -> Tensor:
        """(C, C)."""
        mean = self.sums / max(self.places, 1)
        return self.products / max(self.places, 1) - mean[:, None] * mean


def taylor_importance(activation: Tensor, gradient: Tensor) -> Tensor:
    """Importance of each channel in a batch: activation and gradient (B, C, *spatial) -> (C,), mean over the batch."""
    return (activation * gradient).flatten(2).sum(2).abs().mean(0)


def choose_channels(statistics: Sequence[ChannelStatistics], number: int) -> Tensor:
    """Channels to keep, ascending.

    Args:
        statistics: of every layer that has these channels; each counts alike.
        number: how many, at most the number of channels.
    """
    importance, covariance = (torch.zeros_like(x) for x in (statistics[0].importance, statistics[0].products))
    for s in statistics:
        c = s.covariance
        weight = s.importance / s.importance.sum().clamp_min(1e-30)
        scale = (weight * c.diagonal()).sum().clamp_min(1e-30)
        importance, covariance = importance + weight, covariance + c / scale
    return _select(importance, covariance, number)


def _select(importance: Tensor, covariance: Tensor, number: int) -> Tensor:
    """Forward selection: the channel with the largest sum_j w_j cov(j, c)^2 / var(c), given those already chosen."""
    channels = len(importance)
    if number >= channels:
        return torch.arange(channels)
    variance = covariance.diagonal().clamp_min(0)
    weights = importance / variance.clamp_min(1e-12 * variance.max().clamp_min(1e-30))  # of relative errors
    left = covariance.clone()
    floor = 1e-9 * variance.max()
    chosen: list[int] = []
    for _ in range(number):
        remaining = left.diagonal()
        gain = (weights[:, None] * left.square()).sum(0) / remaining.clamp_min(floor.clamp_min(1e-30))
        gain[remaining <= floor] = -1.0  # adds nothing: a linear combination of the chosen channels, or a dead one
        gain[chosen] = -2.0
        best = int(gain.argmax())
        chosen.append(best)
        if remaining[best] > floor:
            left = left - left[:, best, None] * left[best] / remaining[best]
    return torch.tensor(sorted(chosen))
