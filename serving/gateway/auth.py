"""Who sends a request: the bearer key, looked up by its digest in the snapshot."""

from __future__ import annotations

from collections.abc import Iterable

from core.access import Caller, secret_digest
from core.endpoints import Snapshot
from core.ids import Epoch
from serving.gateway.responses import Rejected

_SCHEME = b"bearer "
_LONGEST = 512


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return the first header of this lower-case name, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def authorise(headers: Iterable[tuple[bytes, bytes]], snapshot: Snapshot, now: Epoch) -> Caller:
    """Return the caller. Rejected (401) without a live key.

    A digest is made and looked up whatever was sent, so the time taken says nothing of how close a guess came.
    """
    given = header(headers, b"authorization") or b""
    secret = given[len(_SCHEME) :].strip() if given[: len(_SCHEME)].lower() == _SCHEME and len(given) <= _LONGEST else b""
    caller = snapshot.callers.get(secret_digest(secret.decode("latin-1")))
    if caller is None or not secret:
        what = "this key is not known or was revoked" if given else "no key was sent"
        raise Rejected(401, what, reason="invalid_api_key", hint="send `Authorization: Bearer st-...` with a live key")
    if caller.expires_at is not None and now >= caller.expires_at:
        raise Rejected(401, f"key {caller.key} has expired", reason="invalid_api_key", hint="ask an operator for a new one")
    return caller
