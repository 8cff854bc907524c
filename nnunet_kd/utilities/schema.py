"""JSON objects <-> frozen dataclasses: unknown keys, wrong types and impossible values are refused by name."""

import dataclasses
import json
import operator
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, Literal, Protocol, TypeVar, Union, runtime_checkable

from nnunet_kd.utilities.errors import UserError

T = TypeVar("T")
_LIMITS = {"minimum": ">=", "above": ">", "maximum": "<="}
_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le}


@runtime_checkable
class Checked(Protocol):
    """A dataclass with rules of its own."""

    def check(self, path: str) -> None:
        """Raises UserError when the values do not fit; ``path`` is the object's dotted name."""


REQUIRED: Any = dataclasses.MISSING  # default of a key that must be there


def number(
    default: Any, doc: str, minimum: float | None = None, above: float | None = None, maximum: float | None = None
) -> Any:
    return field(default=default, metadata={"doc": doc, "minimum": minimum, "above": above, "maximum": maximum})


def value(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"doc": doc})


def block(cls: type, doc: str) -> Any:
    """A field that holds a dataclass; its class may be a subclass of what the field's annotation says."""
    return field(default_factory=cls, metadata={"doc": doc})


def to_dict(config: Any) -> dict[str, Any]:
    """Plain JSON form of a configuration dataclass."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(cls: type[T], data: Any, path: str, other_keys: bool = False) -> T:
    """Builds the frozen dataclass ``cls`` from JSON data.

    Args:
        cls: one of this module's dataclasses.
        data: what ``json.load`` gave.
        path: dotted name of ``data``, for messages.
        other_keys: whether ``data`` may have keys that ``cls`` does not know.

    Raises:
        UserError: names the key's path, what was found and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{path}: found {_shown(data)}, expected an object with the keys {', '.join(_names(cls))}.")
    hints = _types(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown and not other_keys:
        raise UserError(f"{path}.{unknown[0]}: unknown key; allowed are {', '.join(_names(cls))}.")
    values = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if f.name in data:
            values[f.name] = _convert(hints[f.name], data[f.name], f"{path}.{f.name}", f.metadata)
        elif f.default is f.default_factory is REQUIRED:
            raise UserError(f"{path}: has no {f.name!r}, expected {describe_type(hints[f.name])}.")
    config = cls(**values)
    if isinstance(config, Checked):
        config.check(path)
    return config


def _types(cls: type) -> dict[str, Any]:
    """Type of every field; of a block the class that makes its default, which may be made at run time."""
    hints = typing.get_type_hints(cls)
    made = {f.name: f.default_factory for f in dataclasses.fields(cls)}
    return {f: made[f] if dataclasses.is_dataclass(made[f]) else hints[f] for f in made}


def _names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def describe_type(hint: Any) -> str:
    """What a user may write for a type hint: ``integer``, ``"a" | "b"``, ``list of ...``."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return " | ".join(json.dumps(a) for a in typing.get_args(hint))
    if origin in (Union, types.UnionType):
        return " | ".join(describe_type(a) for a in typing.get_args(hint))
    if origin is tuple:
        return f"list of {describe_type(typing.get_args(hint)[0])}"
    if dataclasses.is_dataclass(hint) or hint is dict:
        return "object"
    return {int: "integer", float: "number", bool: "true | false", str: "string", type(None): "null"}[hint]


def _convert(hint: Any, value: Any, path: str, limits: Mapping[str, Any]) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(args[0], v, f"{path}[{i}]", limits) for i, v in enumerate(value))
    if origin in (Union, types.UnionType):
        for option in args:
            if _fits(option, value):
                return _convert(option, value, path, limits)
    elif _fits(hint, value):
        _check_limits(value, path, limits)
        return float(value) if hint is float else value
    raise UserError(f"{path}: found {_shown(value)}, expected {describe_type(hint)}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _fits(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, list | tuple)
    if dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _check_limits(value: Any, path: str, limits: Mapping[str, Any]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    finite = value == value and abs(value) != float("inf")
    for name, sign in _LIMITS.items():
        limit = limits.get(name)
        if limit is not None and not (finite and _COMPARE[sign](value, limit)):
            raise UserError(f"{path}: found {value!r}, expected a number {sign} {limit}.")


def iterate_keys(cls: type, path: str) -> Iterator[tuple[str, str, str, str]]:
    """Every key of the block as (path, type, default, meaning), in order."""
    hints = _types(cls)
    for f in dataclasses.fields(cls):
        hint, name = hints[f.name], f"{path}.{f.name}"
        if dataclasses.is_dataclass(hint):
            yield from iterate_keys(typing.cast(type, hint), name)
            continue
        limits = [f"{sign} {f.metadata[k]}" for k, sign in _LIMITS.items() if f.metadata.get(k) is not None]
        yield name, ", ".join([describe_type(hint), *limits]), json.dumps(f.default), f.metadata["doc"]
        args = typing.get_args(hint)
        if args and dataclasses.is_dataclass(args[0]):
            yield from iterate_keys(typing.cast(type, args[0]), f"{name}[]")


def apply_settings(block: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """Applies ``key=value`` settings (``--set schedule.num_epochs=50``) to a ``"kd"`` block.

    Args:
        block: JSON form of the block.
        settings: ``dotted.key=value``; the value is JSON, or a plain string where JSON does not parse.

    Raises:
        UserError: for a setting without ``=`` or with a key that does not exist.
    """
    result = json.loads(json.dumps(block))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected KEY=VALUE, for example schedule.num_epochs=100.")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        *parents, last = key.removeprefix("kd.").split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {setting}: kd.{key} is not a key; docs/reference/configuration.md lists them.")
        target[last] = value
    return result
