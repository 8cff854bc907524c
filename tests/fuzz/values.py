"""Mutations of one value in a JSON-like document, at a place that a seed chooses."""

import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

Place = tuple[Any, Any]  # container, and key or index
DELETED = object()


def _other_type(value: Any) -> Any:
    return [value, 7] if isinstance(value, str) else "seven" if isinstance(value, int | float) else 7


def _emptied(value: Any) -> Any:
    return type(value)() if isinstance(value, dict | list | str) else []


VALUES: dict[str, Callable[[Any], Any]] = {
    "deleted": lambda value: DELETED,
    "null": lambda value: None,
    "other type": _other_type,
    "nested": lambda value: {"value": [value]},
    "empty": _emptied,
    "huge": lambda value: 10**30,
    "infinite": lambda value: float("inf"),
    "nan": lambda value: float("nan"),
    "negative": lambda value: -3,
    "fraction": lambda value: 0.37,
    "long name": lambda value: "n" * 300,
    "path": lambda value: "../../../escape",
    "unicode": lambda value: "é\u202e😀\x00",
}


def places(document: Any) -> Iterator[Place]:
    """Every key and index of a document, parents before children."""
    items: Any = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


def mutate_value(document: Any, name: str, rng: random.Random, below: tuple[str, ...] = ()) -> Any:
    """A copy of the document with one value mutated.

    Args:
        document: dictionaries, lists and scalars.
        name: one of :data:`VALUES`.
        rng: chooses the place, evenly over the depths so that outer keys are not drowned by long lists.
        below: keys of the part that is mutated; empty: the whole.
    """
    document = deepcopy(document)
    part = document
    for key in below:
        part = part[key]
    container, key = part, None
    while isinstance(container, dict | list) and container:
        key = rng.choice(sorted(container, key=str) if isinstance(container, dict) else range(len(container)))
        child = container[key]
        if not (isinstance(child, dict | list) and child) or rng.random() < 0.25:
            break
        container = child
    new = VALUES[name](container[key])
    if new is DELETED:
        del container[key]
    else:
        container[key] = new
    return document
