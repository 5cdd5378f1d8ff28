"""Encodes values between judge and cell: one line of JSON each; types that JSON lacks are written as [tag, content]. Never pickle."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_LINE_BYTES = 4 * 1024**2


class NotData(ValueError):
    """A value that cannot be encoded, or a line that cannot be decoded."""


def encode(value: Any) -> bytes:
    """Return a line. Raises NotData for anything but numbers, text, bytes, None and the builtin containers of them.

    An instance of a subclass (a Counter, an OrderedDict, an enum of numbers) is encoded by its content, not by its own methods.
    """
    try:
        line = json.dumps(_pack(value)).encode() + b"\n"
    except (ValueError, RecursionError) as error:
        raise NotData(str(error)) from error
    if len(line) > MAX_LINE_BYTES:
        raise NotData(f"a value of {len(line)} bytes is too large")
    return line


def decode(line: bytes) -> Any:
    """Return the value of a line, made of exact builtin types only. Raises NotData for any other bytes."""
    try:
        return _unpack(json.loads(line))
    except (ValueError, TypeError, RecursionError, IndexError) as error:
        raise NotData(str(error)[:200]) from error


def _pack(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in _AS_IT_IS:
        return value
    pack = _PACKERS.get(kind)
    if pack is not None:
        return [kind.__name__, pack(value)]
    for base, plain in _PLAIN:
        if isinstance(value, base):
            return _pack(plain(value))
    raise NotData(f"a value of type {kind.__name__} is not plain data")


def _pack_items(values: Any) -> list[Any]:
    return [item if type(item) in _AS_IT_IS else _pack(item) for item in values]


_AS_IT_IS = {bool, int, float, str}
_PACKERS: dict[type, Callable[[Any], Any]] = {
    **dict.fromkeys((list, tuple, set, frozenset), _pack_items),
    dict: lambda value: [[_pack(key), _pack(item)] for key, item in value.items()],
    bytes: bytes.hex,
    bytearray: bytearray.hex,
    complex: lambda value: [value.real, value.imag],
    range: lambda value: [value.start, value.stop, value.step],
}
_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)
"""The content of an instance of a subclass, independent of the methods that the subclass defines."""


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "list": lambda items: [_unpack(item) for item in items],
    "tuple": lambda items: tuple(_unpack(item) for item in items),
    "set": lambda items: {_unpack(item) for item in items},
    "frozenset": lambda items: frozenset(_unpack(item) for item in items),
    "dict": lambda items: {_unpack(key): _unpack(item) for key, item in items},
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
}


def _unpack(value: Any) -> Any:
    if not isinstance(value, list):
        if isinstance(value, dict):
            raise NotData("an untagged object")
        return value
    tag, content = value
    make = _MAKERS.get(tag) if isinstance(tag, str) else None
    if make is None:
        raise NotData("an unknown tag")
    return make(content)
