"""Whether what is there still says what was applied: only the fields that we own are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.engines.kubernetes.quantity import quantity

_KEYS = ("name", "containerPort", "mountPath", "uid", "topologyKey")
"""What tells the entries of a list apart of which others may own some. All other lists (a policy's ports, tolerations) are one value."""


def difference(wanted: Any, live: Any, path: str = "") -> str | None:
    """Return the path of the first field of `wanted` that `live` does not say, None when it says them all.

    What `live` says beyond that (defaults of the server, status, fields of others) is not ours; but a list that is one value says no more
    than was wanted. Quantities are compared by value.
    """
    if isinstance(wanted, Mapping):
        return _of_mapping(wanted, live, path)
    if isinstance(wanted, list):
        return _of_list(wanted, live, path)
    return None if wanted == live or _same_quantity(wanted, live) else path or "."


def _of_mapping(wanted: Mapping[str, Any], live: Any, path: str) -> str | None:
    if not isinstance(live, Mapping):
        return None if not wanted and live is None else path or "."
    for name, value in wanted.items():
        found = difference(value, live.get(name), f"{path}.{name}" if path else name)
        if found is not None:
            return found
    return None


def _of_list(wanted: list[Any], live: Any, path: str) -> str | None:
    if not isinstance(live, list):
        return path if wanted else None
    key = _key(wanted)
    if key is None:
        return _in_order(wanted, live, path)
    known = {entry.get(key): entry for entry in live if isinstance(entry, Mapping)}
    for entry in wanted:
        found = difference(entry, known.get(entry[key]), f"{path}[{entry[key]}]")
        if found is not None:
            return found
    return None


def _in_order(wanted: list[Any], live: list[Any], path: str) -> str | None:
    if len(wanted) != len(live):
        return path
    for index, (mine, theirs) in enumerate(zip(wanted, live, strict=True)):
        found = difference(mine, theirs, f"{path}[{index}]") or _beyond(mine, theirs, f"{path}[{index}]")
        if found is not None:
            return found
    return None


def _beyond(wanted: Any, live: Any, path: str) -> str | None:
    """Return the path of the first field that `live` says beyond `wanted`, where both belong to one value."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        more = next((name for name, value in live.items() if name not in wanted and value is not None), None)
        if more is not None:
            return f"{path}.{more}"
        deeper = (_beyond(value, live.get(name), f"{path}.{name}") for name, value in wanted.items())
        return next((found for found in deeper if found is not None), None)
    return None


def _key(entries: list[Any]) -> str | None:
    """Return the field by which the entries of a list are told apart, as server-side apply merges them."""
    if not entries or not all(isinstance(entry, Mapping) for entry in entries):
        return None
    return next((key for key in _KEYS if len({entry.get(key) for entry in entries} - {None}) == len(entries)), None)


def _same_quantity(wanted: Any, live: Any) -> bool:
    if not isinstance(wanted, str | int | float) or not isinstance(live, str | int | float):
        return False
    left, right = quantity(wanted), quantity(live)
    return left is not None and left == right
