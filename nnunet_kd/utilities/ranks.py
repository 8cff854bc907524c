"""The processes ("ranks") of a training on several GPUs: what they exchange, and how they wait for each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch._dynamo import OptimizedModule

PATIENCE = timedelta(days=7)


def is_distributed() -> bool:
    """Whether this process is one of several, as nnU-Net's trainers ask."""
    return dist.is_available() and dist.is_initialized()


def number_of_ranks() -> int:
    """How many processes train one network; 1 without others."""
    return dist.get_world_size() if is_distributed() else 1


def gather(value: Any) -> list[Any]:
    """The value of every rank, in their order; that of this process alone without others."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.apply(gradients[0])


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum of the tensors of all ranks, of one shape; the gradient is that of the sum of all ranks' losses.

    DDP divides it by the number of ranks: with one loss for all of them, it is the gradient of that loss.
    """
    return _Sum.apply(tensor)


@contextmanager
def waiting_for_all() -> Iterator[None]:
    """Work of which some ranks have more than others; each goes on when all are done, however long that takes.

    PyTorch's own group gives up after 10 to 30 minutes, in a barrier as in any other exchange.
    """
    if not is_distributed():
        yield
        return
    group: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    yield
    dist.monitored_barrier(group, PATIENCE)
    dist.destroy_process_group(group)


def bare(network: Any) -> nn.Module:
    """A network without the wrappers of DDP and ``torch.compile``."""
    network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    return network._orig_mod if isinstance(network, OptimizedModule) else network
