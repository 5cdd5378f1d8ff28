"""Telling somebody's webhook: JSON by POST, signed, tried again, and never with a secret in an error or a log.

A receiver checks `X-Seatrial-Signature: t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 with the shared secret over `SECONDS.BODY`, and
may drop a delivery whose `X-Seatrial-Delivery` it has seen: one that was cut off after it arrived is sent again under the same id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from core.errors import Refused, Transient
from core.ports.clock import Clock
from core.reasons import Reason

BACKOFF_S = (1.0, 4.0, 15.0)
_LONGEST_RETRY_AFTER_S = 60.0
_LATER = frozenset({408, 409, 425, 429})


class Webhook:
    """One receiver. `url` may hold a token, so only its host is ever named."""

    def __init__(self, url: str, secret: str, clock: Clock, *, timeout_s: float = 10.0) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._timeout_s = timeout_s
        self._host = _host(url)

    def tell(self, delivery: str, document: Mapping[str, Any]) -> None:
        """Deliver a document; returns when the receiver has answered 2xx. Redirects are not followed.

        Tried four times; then Transient. Refused when the receiver does not want it (4xx, a redirect) or the URL is none.
        """
        body = json.dumps(document, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
        for pause in (*BACKOFF_S, None):
            try:
                self._once(delivery, body)
            except Transient as error:
                if pause is None:
                    raise
                self._clock.wait(min(error.retry_after_s or pause, _LONGEST_RETRY_AFTER_S))
            else:
                return

    def _once(self, delivery: str, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "seatrial", "X-Seatrial-Delivery": delivery}
        if self._secret:
            headers["X-Seatrial-Signature"] = signature(self._secret, int(self._clock.now()), body)
        try:
            with httpx.stream("POST", self._url, content=body, headers=headers, timeout=self._timeout_s, follow_redirects=False) as answer:
                self._judge(answer)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Refused(
                "SEATRIAL_BENCHMARKS_WEBHOOK_URL must be a URL", reason=Reason.BAD_SETTING, hint="write https://HOST/PATH"
            ) from error
        except httpx.HTTPError as error:
            raise Transient(f"the webhook at {self._host} did not answer: {type(error).__name__}", hint="see that it is up") from error

    def _judge(self, answer: httpx.Response) -> None:
        """Look at the status only: a receiver's body may be endless."""
        if answer.is_success:
            return
        what = f"the webhook at {self._host} answered {answer.status_code}"
        if answer.is_server_error or answer.status_code in _LATER:
            delay = answer.headers.get("Retry-After", "")
            raise Transient(what, retry_after_s=float(delay) if delay.isdecimal() else None, hint="see its log")
        raise Refused(what, reason=Reason.WEBHOOK_REFUSED, hint="check SEATRIAL_BENCHMARKS_WEBHOOK_URL and the receiver's log")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "an address without a host"
    except ValueError:  # half an IPv6 address
        return "an address that cannot be read"


def signature(secret: str, now: int, body: bytes) -> str:
    """Return the header's value for a body at a time (epoch seconds)."""
    return f"t={now},v1={hmac.new(secret.encode(), f'{now}.'.encode() + body, hashlib.sha256).hexdigest()}"
