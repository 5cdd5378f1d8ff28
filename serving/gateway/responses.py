"""HTTP responses in OpenAI's shapes, and the error that becomes one of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from core.errors import Refused
from core.reasons import AnyReason, Reason

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
    """The gateway responds with this HTTP status and an error document of OpenAI's shape."""

    code = Reason.REJECTED

    def __init__(
        self,
        status: int,
        what: str,
        *,
        reason: AnyReason,
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

    def response(self) -> Response:
        """Return the response to the client."""
        extra = [] if self.retry_after_s is None else [(b"retry-after", str(self.retry_after_s).encode())]
        if self.status == 401:  # noqa: PLR2004
            extra.append((b"www-authenticate", b"Bearer"))
        return Response(self.status, error_body(str(self), kind=self.kind, param=self.param, code=self.reason), tuple(extra))


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


def json_response(document: object, status: int = 200) -> Response:
    """Return `document` as a JSON response."""
    return Response(status, json.dumps(document).encode())


def error_body(message: str, *, kind: str, param: str | None, code: str | int | None) -> bytes:
    """Return OpenAI's error document."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def unavailable(what: str, *, reason: AnyReason, retry_after_s: int = 2, hint: str = "try again in a moment") -> Rejected:
    """Return a 503 with `Retry-After`."""
    return Rejected(503, what, reason=reason, kind=UNAVAILABLE, retry_after_s=retry_after_s, hint=hint)


async def send_response(send: Send, response: Response, extra: Headers) -> None:
    """Send a complete response with the headers `extra` added."""
    headers = [(b"content-type", response.content_type), (b"content-length", str(len(response.body)).encode()), *response.headers, *extra]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
