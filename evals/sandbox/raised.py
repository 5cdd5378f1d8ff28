"""Carries an exception from a cell to the judge as data, so that a check catches it as it would in the same process."""

from __future__ import annotations

import builtins
import importlib
import sys
from typing import Any

from evals.sandbox.codec import NotData, encode

_MAX_CHARS = 10_000
_SHOWN_CHARS = 300
MODULES = {
    *("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "textwrap", "typing"),
}
"""Modules of the standard library without side effects: a check may use them because its program imported them."""


def describe(error: BaseException) -> tuple[str, list[str], str, tuple[Any, ...] | None]:
    """Return ("raised", the classes of its MRO as module.name, its text, its arguments or None where they are not plain data)."""
    kinds = [f"{kind.__module__}.{kind.__qualname__}" for kind in type.mro(type(error))]
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - its own __str__ may raise
        text = ""
    if len(text) > _MAX_CHARS:
        return "raised", kinds, text[:_SHOWN_CHARS], None
    try:
        encode(error.args)
    except NotData:
        return "raised", kinds, text, None
    return "raised", kinds, text, error.args


def restore(kinds: list[Any], text: str, arguments: Any) -> BaseException:
    """Return an exception with this text that `except` clauses for the known classes among `kinds` catch.

    Known are the exceptions of builtins and of MODULES. An exception of a class of the program becomes an instance of a new class with
    the same name, derived from the known ones. Never runs a method of the program.
    """
    names = [name for name in kinds if isinstance(name, str)]
    bases: list[type[BaseException]] = []
    for name in names:
        found = _known(name)
        if found is not None and not any(issubclass(base, found) for base in bases):
            bases.append(found)
    own = names[0].rpartition(".")[2] if names else ""
    given = arguments if isinstance(arguments, tuple) else (text,)
    if len(bases) == 1 and _known(names[0]) is bases[0]:
        try:
            same = bases[0](*given)
            if str(same) == text:
                return same
        except (TypeError, ValueError, AttributeError):  # its constructor takes other arguments
            pass
    error = _instance(own if own.isidentifier() else "Exception", tuple(bases) or (Exception,), text)
    error.args = given
    return error


def _known(name: str) -> type[BaseException] | None:
    module, _dot, kind = name.rpartition(".")
    root = module.partition(".")[0]
    if root in MODULES:
        importlib.import_module(root)
    elif module != "builtins":
        return None
    found = vars(builtins if module == "builtins" else sys.modules.get(module, builtins)).get(kind)
    if not isinstance(found, type) or not issubclass(found, BaseException) or issubclass(found, BaseExceptionGroup):
        return None
    return found


def _instance(name: str, bases: tuple[type[BaseException], ...], text: str) -> BaseException:
    members = {"__init__": lambda _self, *_arguments: None, "__str__": lambda _self: text}
    kind: Any
    try:
        kind = type(name, bases, members)
    except TypeError:  # classes whose instances cannot be combined
        kind = type(name, bases[:1], members)
    made: BaseException = kind.__new__(kind)  # its own: OSError's instances are not made by BaseException
    return made
