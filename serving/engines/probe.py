"""Questions to an engine over loopback HTTP."""

from __future__ import annotations

import http.client
import json
from typing import Protocol


class Probe(Protocol):
    """Tells whether an engine answers. Both are False on any failure."""

    def healthy(self, port: int) -> bool:
        """Say whether /health answers 200, soon."""
        ...

    def generates(self, port: int, model: str) -> bool:
        """Say whether one token comes out. May take as long as a first generation does."""
        ...


class HttpProbe:
    """Asks for real."""

    def __init__(self, health_timeout_s: float = 3.0, generation_timeout_s: float = 120.0) -> None:
        self._health_timeout_s = health_timeout_s
        self._generation_timeout_s = generation_timeout_s

    def healthy(self, port: int) -> bool:
        """GET /health."""
        return _status("GET", port, "/health", None, self._health_timeout_s) == http.HTTPStatus.OK

    def generates(self, port: int, model: str) -> bool:
        """POST /v1/completions for one token."""
        body = json.dumps({"model": model, "prompt": "def", "max_tokens": 1, "temperature": 0})
        return _status("POST", port, "/v1/completions", body, self._generation_timeout_s) == http.HTTPStatus.OK


def _status(method: str, port: int, path: str, body: str | None, timeout_s: float) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return None
    else:
        return response.status
    finally:
        connection.close()
