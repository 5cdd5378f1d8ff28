"""Prefect's API for tests that look at it or set it up, beside the product's own calls."""

from __future__ import annotations

import threading
import time

import httpx

_LIMIT_S = 60.0
_PAUSE_S = 0.5


def prefect_api(url: str) -> httpx.Client:
    """Return a client of the API at `url` that asks again, as a person would, while Prefect is too busy to answer."""
    return httpx.Client(base_url=url, timeout=30, transport=_Patient())


class _Patient(httpx.HTTPTransport):
    """Repeats what was answered by 503: Prefect's SQLite answers so on a busy machine, and has done nothing then."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        until = time.monotonic() + _LIMIT_S
        while True:
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > until:
                return response
            response.close()
            threading.Event().wait(_PAUSE_S)
