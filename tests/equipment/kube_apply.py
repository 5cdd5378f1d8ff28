"""Server-side apply, as far as our objects need it: owned fields, forced or refused, and taken away when nobody names them any more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
Path = tuple[str, ...]

_IDENTITY = frozenset({("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace"), ("metadata", "uid")})
_KEYS = ("name", "uid", "mountPath", "topologyKey")


class Refusal(Exception):
    """An answer with a status of 400 or more."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def applied(known: Object | None, body: Object, manager: str, *, force: bool) -> Object:
    """Return the object after `manager` applied `body`. Refusal 409 where another manager holds a field that would change."""
    uid = body["metadata"].get("uid")
    if uid is not None and (known is None or known["metadata"]["uid"] != uid):
        raise Refusal(409, "uid mismatch")
    if known is None and "spec" not in body:
        raise Refusal(422, "spec: Required value")
    live: Object = json.loads(json.dumps(known)) if known is not None else {"metadata": {}}
    mine = dict(leaves(body))
    managers = {
        entry["manager"]: set(map(tuple, entry["paths"])) for entry in live["metadata"].get("managedFields", ()) if "paths" in entry
    }
    _refuse_conflicts(live, mine, managers, manager, force=force)
    for path in managers.get(manager, set()) - set(mine):
        if not any(path in paths for other, paths in managers.items() if other != manager):
            _drop(live, path)
    live = merged(live, body)
    managers[manager] = set(mine) - _IDENTITY
    by_hand = [entry for entry in live["metadata"].get("managedFields", ()) if "paths" not in entry]
    ours = [
        {"manager": name, "operation": "Apply", "paths": sorted(map(list, paths)), "fieldsV1": _fields(paths)}
        for name, paths in sorted(managers.items())
        if paths
    ]
    live["metadata"]["managedFields"] = ours if force and manager == "seatrial" else [*ours, *by_hand]
    return live


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the fields of a document; entries of keyed lists by their key."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from leaves(part, (*path, name))
    elif isinstance(value, list) and (key := _key(value)):
        for entry in value:
            yield from leaves(entry, (*path, f"{key}={entry[key]}"))
    else:
        yield path, value


def merged(live: Any, body: Any) -> Any:
    """Return `live` with what `body` says."""
    if isinstance(live, dict) and isinstance(body, dict):
        return {**live, **{name: merged(live.get(name), value) for name, value in body.items()}}
    key = _key(body) if isinstance(body, list) else None
    if key is not None and isinstance(live, list):
        known = {entry.get(key): entry for entry in live}
        for entry in body:
            known[entry[key]] = merged(known.get(entry[key]), entry)
        return list(known.values())
    return body


def _refuse_conflicts(live: Object, mine: dict[Path, Any], managers: dict[str, set[Path]], manager: str, *, force: bool) -> None:
    now = dict(leaves(live))
    for other, paths in managers.items():
        taken = [path for path in paths & set(mine) if now.get(path) != mine[path]]
        if other != manager and taken:
            if not force:
                raise Refusal(409, f"Apply failed with 1 conflict: conflict with {other!r}: {'.'.join(taken[0])}")
            managers[other] = paths - set(taken)


def _fields(paths: set[Path]) -> Object:
    """Return the fields as `managedFields` writes them; entries of lists by our own words."""
    fields: Object = {}
    for path in paths:
        inner = fields
        for part in path:
            inner = inner.setdefault(f"f:{part}", {})
    return fields


def _drop(live: Any, path: Path) -> None:
    *way, last = path
    for part in way:
        live = _into(live, part)
        if live is None:
            return
    if isinstance(live, dict):
        live.pop(last, None)
    elif isinstance(live, list):
        key, _, value = last.partition("=")
        live[:] = [entry for entry in live if str(entry.get(key)) != value]


def _into(live: Any, part: str) -> Any:
    if isinstance(live, dict):
        return live.get(part)
    key, _, value = part.partition("=")
    return next((entry for entry in live if str(entry.get(key)) == value), None)


def _key(entries: list[Any]) -> str | None:
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        return None
    return next((key for key in _KEYS if len({entry.get(key) for entry in entries} - {None}) == len(entries)), None)
