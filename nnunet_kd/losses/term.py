"""What all loss terms share: weight and ramp, and how a term makes itself known.

A term is one place: its settings (a frozen dataclass), its function and its registration stand in one file. A file in
this folder, or in ``losses/`` of a folder of ``NNUNET_KD_EXTENSIONS``, is all that a new term needs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar

from nnunet_kd.losses.ramps import ramp
from nnunet_kd.utilities.schema import block, number, value

Ramp = Literal["none", "linear", "gaussian", "fade"]
RAMP = (
    "weight over the training: constant, rising linearly or as exp(-5 (1 - t)^2), or falling linearly to 0 (of soft "
    "labels: where a voxel has a reference)"
)
RAMP_LENGTH = "fraction of the training over which the weight rises or falls"
WEIGHT = "weight in the training loss; 0 switches the term off"


@dataclasses.dataclass(frozen=True)
class Term:
    """Weight and ramp of one term; its own numbers are those of a subclass."""

    weight: float = number(0.0, WEIGHT, minimum=0)
    ramp: Ramp = value("none", RAMP)
    ramp_length: float = number(1.0, RAMP_LENGTH, above=0, maximum=1)

    def weight_at(self, progress: float) -> float:
        """The ramped weight.

        Args:
            progress: fraction of the training that has passed, in [0, 1].
        """
        return self.weight * ramp(self.ramp, progress, self.ramp_length)

    @classmethod
    def field(cls, name: str, meaning: str) -> tuple[str, type, Any]:
        """Key, type and dataclass field of the term in the configuration."""
        return name, cls, block(cls, meaning)


T = TypeVar("T", bound=Term)
S = TypeVar("S")


@dataclasses.dataclass(frozen=True)
class TermSettings(Generic[T]):
    """A block of the configuration whose terms come from a registry."""

    def active(self) -> dict[str, T]:
        """The terms whose weight is not 0, by name."""
        terms = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: t for name, t in terms.items() if isinstance(t, Term) and t.weight > 0}  # type: ignore[misc]


class TermRegistry(Generic[T]):
    """The terms of one family, by name."""

    def __init__(self, family: str):
        """Args:
        family: what a message calls them.
        """
        self.family = family
        self._terms: dict[str, tuple[type[T], str]] = {}

    def register(self, name: str, meaning: str) -> Callable[[type[T]], type[T]]:
        """Decorator of a term's settings.

        Args:
            name: key in the configuration, and of the term's curve.
            meaning: one line for the reference.

        Raises:
            ValueError: when another class has the name.
        """

        def decorate(cls: type[T]) -> type[T]:
            before = self._terms.get(name, (cls, ""))[0]
            if (before.__module__, before.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"{self.family} {name!r} is there already: {before.__module__}.{before.__qualname__}")
            self._terms[name] = cls, meaning
            return cls

        return decorate

    @property
    def terms(self) -> Mapping[str, type[T]]:
        """Name -> settings, in the order of registration."""
        return {name: cls for name, (cls, _) in self._terms.items()}

    def settings(self, base: type[S], name: str, module: str) -> type[S]:
        """The block of the configuration: a block for every term, then the keys of ``base``.

        Args:
            base: a dataclass, a :class:`TermSettings`.
            name: of the new class.
            module: where it is to be found, so that it can be pickled.
        """
        fields = [cls.field(key, meaning) for key, (cls, meaning) in self._terms.items()]
        made = dataclasses.make_dataclass(name, fields, bases=(base,), frozen=True, namespace={"__doc__": base.__doc__})
        made.__module__ = module
        return made
