"""Authentication by bearer keys, and the rights of a key: which endpoints it may call. Both use the snapshot only."""

from __future__ import annotations

from collections.abc import Iterable

from core.access import Caller, secret_digest
from core.endpoints import Route, Snapshot
from core.ids import EndpointName, Epoch
from core.reasons import Reason
from serving.gateway.responses import Rejected

_SCHEME = b"bearer "
_MAX_HEADER = 512
_LISTED = 50


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first header of this lower-case name, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def find_caller(headers: Iterable[tuple[bytes, bytes]], snapshot: Snapshot, now: Epoch) -> Caller:
    """Return the caller whose key the request carries. Rejected (401) without a valid key.

    A digest is computed and looked up for every value, so the response time does not depend on how similar a wrong key is.
    """
    given = header(headers, b"authorization") or b""
    secret = given[len(_SCHEME) :].strip() if given[: len(_SCHEME)].lower() == _SCHEME and len(given) <= _MAX_HEADER else b""
    caller = snapshot.callers.get(secret_digest(secret.decode("latin-1")))
    if caller is None or not secret:
        what = "this key is not known or was revoked" if given else "no key was sent"
        raise Rejected(401, what, reason=Reason.INVALID_API_KEY, hint="send `Authorization: Bearer st-...` with a live key")
    if caller.expires_at is not None and now >= caller.expires_at:
        raise Rejected(401, f"key {caller.key} has expired", reason=Reason.INVALID_API_KEY, hint="ask an operator for a new one")
    return caller


def permitted_endpoints(snapshot: Snapshot, caller: Caller) -> list[EndpointName]:
    """Return the endpoints that the caller may call, sorted by name."""
    return sorted(name for name in snapshot.routes if caller.may_call(name))


def permitted_route(snapshot: Snapshot, caller: Caller, model: str) -> Route:
    """Return the route of a model. Rejected (404) equally for a model that does not exist and for one that the key may not call."""
    route = snapshot.routes.get(EndpointName(model))
    if route is not None and caller.may_call(route.endpoint):
        return route
    names = permitted_endpoints(snapshot, caller)
    hint = f"this key may use: {', '.join(names[:_LISTED])}" if names else "there is no model for this key yet"
    raise Rejected(404, f"the model `{model[:64]}` does not exist", reason=Reason.MODEL_NOT_FOUND, param="model", hint=hint)
