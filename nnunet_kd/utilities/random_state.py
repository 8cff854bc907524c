"""The random number generators: their seeds, and their state in a form that a safe loader of checkpoints accepts."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int, *stream: int) -> None:
    """Seeds Python's, NumPy's and torch's generators; other ``stream`` numbers give independent random numbers."""
    if stream:
        seed = int(np.random.SeedSequence(seed, spawn_key=stream).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's generators, of CUDA's where it is used, in containers and tensors."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Brings the generators back to what :func:`random_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Work that draws random numbers without a trace: what follows draws the same as if it had not been done."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
