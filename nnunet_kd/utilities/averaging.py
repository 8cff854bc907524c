"""An exponential moving average of a network's weights, beside the network that is trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class AveragedWeights:
    r"""Weights and buffers averaged over the steps of a training.

    .. math:: \bar w \leftarrow d_n \bar w + (1 - d_n) w, \quad d_n = \min(d, (1 + n) / (10 + n))

    so that the first steps of a long average do not keep the initial weights.

    Source: Tarvainen and Valpola 2017, "Mean teachers are better role models", Section 2 (average of the weights).
    """

    def __init__(self, network: nn.Module, decay: float):
        """Starts with the weights of the bare ``network``; ``decay`` is d, in (0, 1)."""
        self.network = network

        def mean(average: Tensor, new: Tensor, steps: Tensor | int) -> Tensor:
            share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
            return average.lerp(new, share) if average.is_floating_point() else new  # a count of batches

        self._average = AveragedModel(network, avg_fn=mean, use_buffers=True)
        self._average.n_averaged.fill_(1)

    def update(self) -> None:
        """Takes the network's weights in, after a step."""
        self._average.update_parameters(self.network)

    def swap(self) -> None:
        """Exchanges the network's weights with the average."""
        tensors = ((*n.parameters(), *n.buffers()) for n in (self.network, self._average.module))  # each of them once
        with torch.no_grad():
            for mine, theirs in zip(*tensors, strict=True):
                before = mine.clone()
                mine.copy_(theirs)
                theirs.copy_(before)

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """In here the network has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state(self) -> dict[str, Any]:
        """For resuming, taken while the network has the averaged weights: those of the training, and the steps."""
        weights = {k: v.detach().cpu().clone() for k, v in self._average.module.state_dict().items()}
        return {"weights": weights, "steps": int(self._average.n_averaged)}

    def resume(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`, for a network that has the averaged weights: it gets those of the training."""
        self.network.load_state_dict(state["weights"])
        self._average.n_averaged.fill_(state["steps"])
