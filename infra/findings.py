"""The result of a check of `seatrial doctor`, and the check of a URL that both doctors use."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: whether it passed, the finding, and the next step after a failure."""

    name: str
    ok: bool
    what: str
    next: str = ""


def answers(url: str, timeout_s: float = 1.0) -> bool:
    """Return whether a URL answers with success within the timeout."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status < http.HTTPStatus.BAD_REQUEST
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
