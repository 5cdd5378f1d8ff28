"""Frozen dataclasses as plain JSON and back, by their type hints: what the database's JSON columns and the spool's lines hold."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def plain(value: Any) -> Any:
    """Return `value` as dicts, lists, strings and numbers: what `json.dumps` takes."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _names(type(value))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def restore(kind: type[T], data: Mapping[Any, Any]) -> T:
    """Return the `kind` that `plain` made `data` of. Fields that `data` lacks get their defaults, those it has too many are ignored.

    Raises ValueError (TypeError, KeyError) when `data` cannot be one: an enum without such a value, a required field missing.
    """
    known: Any = kind
    hints = _hints(known)
    values = {name: _value(hints[name], data[name]) for name in _names(known) if name in data}
    missing = [name for name in _required(known) if name not in values]
    if missing:
        raise ValueError(f"a {kind.__name__} without {', '.join(missing)}")
    return kind(**values)


def _value(hint: Any, data: Any) -> Any:
    origin = get_origin(hint)
    if origin in {types.UnionType, Union}:
        return None if data is None else _value(next(arg for arg in get_args(hint) if arg is not type(None)), data)
    if origin is tuple:
        return tuple(_value(get_args(hint)[0], item) for item in data)
    kind = getattr(hint, "__supertype__", hint)  # a NewType stands for what it is made from
    if isinstance(kind, type):
        if issubclass(kind, Enum):
            return kind(data)
        if is_dataclass(kind):
            return restore(kind, data)
        return _checked(kind, data)
    return data


def _checked(kind: type[Any], data: Any) -> Any:
    """Return a number or a string if it is one: a spool's line may hold anything."""
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind in {str, int, float, bool} and (not isinstance(data, kind) or (kind is int and isinstance(data, bool))):
        raise ValueError(f"{type(data).__name__} where {kind.__name__} should be")
    return data


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))


@cache
def _required(kind: type[Any]) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind) if item.default is MISSING and item.default_factory is MISSING)


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)
