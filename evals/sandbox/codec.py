"""Encodes values between judge and cell: one line of JSON each; types that JSON lacks are written as [tag, content]. Never pickle."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

MAX_LINE_BYTES = 4 * 1024**2
_LONG = 1 << 4096
"""Integers from here on are written in hexadecimal: Python refuses to read more than 4300 decimal digits, and reads them slowly."""

Lend = Callable[[Iterator[Any]], Any]
Borrow = Callable[[int], Iterator[Any]]


class NotData(ValueError):
    """A value that cannot be encoded, or a line that cannot be decoded."""


def encode(value: Any, lend: Lend | None = None) -> bytes:
    """Return a line. Raises NotData for anything but numbers, text, bytes, None, and the containers of them of the standard library.

    An instance of a subclass (a named tuple, an enum of numbers) is encoded by its content, not by its own methods. An iterator is
    encoded as the number that `lend` returns for it, and without `lend` as its items.
    """
    try:
        line = json.dumps(_pack(value, lend)).encode() + b"\n"
    except (ValueError, RecursionError) as error:
        raise NotData(str(error)) from error
    if len(line) > MAX_LINE_BYTES:
        raise NotData(f"a value of {len(line)} bytes is too large")
    return line


def decode(line: bytes, borrow: Borrow | None = None) -> Any:
    """Return the value of a line, made of types of the standard library only. Raises NotData for any other bytes.

    `borrow` returns the iterator of a number.
    """
    try:
        return _unpack(json.loads(line.decode("ascii")), borrow)  # given bytes, `loads` would read UTF-16 as well
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise NotData(str(error)[:200]) from error


def _pack(value: Any, lend: Lend | None) -> Any:
    kind = type(value)
    if value is None or kind in _AS_IT_IS:
        return value
    if kind is int:
        return value if -_LONG < value < _LONG else ["int", hex(value)]
    pack = _PACKERS.get(kind)
    if pack is not None:
        return [_TAGS.get(kind) or kind.__name__, pack(value, lend)]
    return _pack_other(value, kind, lend)


def _pack_other(value: Any, kind: type, lend: Lend | None) -> Any:
    """Pack a value of a type that JSON and `_PACKERS` lack."""
    for base in kind.__mro__:
        rare = _RARE.get(f"{base.__module__}.{base.__name__}")
        if rare is not None and base is getattr(sys.modules.get(base.__module__), base.__name__, None):
            return [base.__name__, _pack_items(rare(base, value), lend)]
    for base, plain in _PLAIN:
        if isinstance(value, base):
            return _pack(plain(value), lend)
    for base in (_KEYS, _VALUES, _ITEMS):  # those of an OrderedDict
        if isinstance(value, base):
            return [_TAGS[base], _PACKERS[base](value, lend)]
    if hasattr(kind, "__next__") and hasattr(kind, "__iter__"):
        return ["iterator", _pack_items(value, None)] if lend is None else ["lent", lend(value)]
    raise NotData(f"a value of type {kind.__name__} is not plain data")


def _pack_items(values: Any, lend: Lend | None) -> list[Any]:
    return [item if (kind := type(item)) in _AS_IT_IS or (kind is int and -_LONG < item < _LONG) else _pack(item, lend) for item in values]


def _pack_pairs(pairs: Any, lend: Lend | None) -> list[Any]:
    return [[_pack(key, lend), _pack(item, lend)] for key, item in pairs]


_AS_IT_IS = {bool, float, str}
_EMPTY: dict[Any, Any] = {}
_KEYS, _VALUES, _ITEMS = type(_EMPTY.keys()), type(_EMPTY.values()), type(_EMPTY.items())
_TAGS = {_KEYS: "keys", _VALUES: "values", _ITEMS: "items"}
_PACKERS: dict[type, Callable[[Any, Lend | None], Any]] = {
    **dict.fromkeys((list, tuple, set, frozenset, _KEYS, _VALUES), _pack_items),
    dict: lambda value, lend: _pack_pairs(value.items(), lend),
    _ITEMS: _pack_pairs,
    bytes: lambda value, _lend: value.hex(),
    bytearray: lambda value, _lend: value.hex(),
    complex: lambda value, _lend: [value.real, value.imag],
    range: lambda value, lend: _pack_items((value.start, value.stop, value.step), lend),
}
_RARE: dict[str, Callable[[Any, Any], tuple[Any, ...]]] = {
    "fractions.Fraction": lambda _base, value: (value.numerator, value.denominator),
    "decimal.Decimal": lambda base, value: (base.__str__(value),),
    "collections.deque": lambda base, value: (list(base.__iter__(value)), base.maxlen.__get__(value)),
    "collections.Counter": lambda _base, value: (dict(dict.items(value)),),
    "collections.OrderedDict": lambda base, value: (list(base.items(value)),),
    "collections.defaultdict": lambda _base, value: (_name_of(value.default_factory), dict(dict.items(value))),
}
"""The arguments that make an equal value of a class, by the class's name. Their modules are not loaded before a program needs them."""
_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (bytes, lambda value: bytes(memoryview(value))),
    (bytearray, lambda value: bytearray(memoryview(value))),
    (complex, complex.__pos__),
)
"""The content of an instance of a subclass, independent of the methods that the subclass defines."""
_FACTORIES = {kind.__name__: kind for kind in (bool, bytes, dict, float, frozenset, int, list, set, str, tuple)}


def _name_of(factory: Any) -> str | None:
    name = getattr(factory, "__name__", None)
    return name if isinstance(name, str) and _FACTORIES.get(name) is factory else None


def _made(module: str, name: str) -> Callable[[Any, Borrow | None], Any]:
    def make(content: Any, borrow: Borrow | None) -> Any:
        return getattr(importlib.import_module(module), name)(*[_unpack(part, borrow) for part in content])

    return make


def _default_dict(content: Any, borrow: Borrow | None) -> Any:
    factory, items = content
    found = importlib.import_module("collections").defaultdict(_FACTORIES.get(factory))
    found.update(_unpack(items, borrow))
    return found


def _dict(pairs: Any, borrow: Borrow | None) -> dict[Any, Any]:
    return {_unpack(key, borrow): _unpack(item, borrow) for key, item in pairs}


def _list(items: Any, borrow: Borrow | None) -> list[Any]:
    return [_unpack(item, borrow) for item in items]


def _lent(number: Any, borrow: Borrow | None) -> Iterator[Any]:
    if borrow is None or type(number) is not int:
        raise NotData("an iterator that nothing lends")
    return borrow(number)


_MAKERS: dict[str, Callable[[Any, Borrow | None], Any]] = {
    "list": _list,
    "tuple": lambda items, borrow: tuple(_list(items, borrow)),
    "set": lambda items, borrow: {_unpack(item, borrow) for item in items},
    "frozenset": lambda items, borrow: frozenset(_list(items, borrow)),
    "dict": _dict,
    "keys": lambda items, borrow: dict.fromkeys(_list(items, borrow)).keys(),
    "values": lambda items, borrow: dict(enumerate(_list(items, borrow))).values(),
    "items": lambda pairs, borrow: _dict(pairs, borrow).items(),
    "int": lambda digits, _borrow: int(digits, 16),
    "bytes": lambda digits, _borrow: bytes.fromhex(digits),
    "bytearray": lambda digits, _borrow: bytearray.fromhex(digits),
    "complex": lambda parts, _borrow: complex(*parts),
    "range": lambda parts, borrow: range(*_list(parts, borrow)),
    "iterator": lambda items, borrow: iter(_list(items, borrow)),
    "lent": _lent,
    "Fraction": _made("fractions", "Fraction"),
    "Decimal": _made("decimal", "Decimal"),
    "deque": _made("collections", "deque"),
    "Counter": _made("collections", "Counter"),
    "OrderedDict": _made("collections", "OrderedDict"),
    "defaultdict": _default_dict,
}


def _unpack(value: Any, borrow: Borrow | None) -> Any:
    if not isinstance(value, list):
        if isinstance(value, dict):
            raise NotData("an untagged object")
        return value
    tag, content = value
    make = _MAKERS.get(tag) if isinstance(tag, str) else None
    if make is None:
        raise NotData("an unknown tag")
    return make(content, borrow)
