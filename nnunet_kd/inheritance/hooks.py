"""Hooks that are removed again."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hooks(handles: Iterable[Any]) -> Iterator[None]:
    """Removes the hooks behind these handles at the end, however it comes."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
