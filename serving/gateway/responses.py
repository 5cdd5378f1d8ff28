"""Answers in OpenAI's shapes, and the one error that becomes one of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from core.errors import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

BAD_REQUEST = "invalid_request_error"
ENGINE = "engine_error"
UNAVAILABLE = "service_unavailable_error"


class Rejected(Refused):
    """The request gets an error of OpenAI's shape with this HTTP status instead of an answer."""

    code = "rejected"

    def __init__(
        self,
        status: int,
        what: str,
        *,
        reason: str,
        kind: str = BAD_REQUEST,
        param: str | None = None,
        retry_after_s: int | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(what, reason=reason, hint=hint)
        self.status = status
        self.kind = kind
        self.param = param
        self.retry_after_s = retry_after_s

    def answer(self) -> Answer:
        """Return the answer that the client gets."""
        extra = [] if self.retry_after_s is None else [(b"retry-after", str(self.retry_after_s).encode())]
        if self.status == 401:  # noqa: PLR2004
            extra.append((b"www-authenticate", b"Bearer"))
        return Answer(self.status, error_body(str(self), kind=self.kind, param=self.param, code=self.reason), tuple(extra))


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


def json_answer(document: object, status: int = 200) -> Answer:
    """Return `document` as an answer."""
    return Answer(status, json.dumps(document).encode())


def error_body(message: str, *, kind: str, param: str | None, code: str | int | None) -> bytes:
    """Return OpenAI's error document."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def unavailable(what: str, *, reason: str, retry_after_s: int = 2, hint: str = "try again in a moment") -> Rejected:
    """Return a 503 that tells when to try again."""
    return Rejected(503, what, reason=reason, kind=UNAVAILABLE, retry_after_s=retry_after_s, hint=hint)


async def send_answer(send: Send, answer: Answer, extra: Headers) -> None:
    """Send a whole answer with the headers `extra` added."""
    headers = [(b"content-type", answer.content_type), (b"content-length", str(len(answer.body)).encode()), *answer.headers, *extra]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
