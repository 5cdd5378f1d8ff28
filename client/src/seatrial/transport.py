"""HTTP towards the control API and the gateway: one place that turns answers into documents and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from seatrial.config import Connection
from seatrial.errors import RefusedError, SeatrialError, Unavailable, from_status

_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 600.0


class Transport:
    """Calls of one platform with one key."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._gateway: str | None = None
        headers = {"Authorization": f"Bearer {connection.key}"}
        self._http = httpx.Client(headers=headers, timeout=_TIMEOUT_S)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, *, body: Any = None, **query: Any) -> Any:
        """Call the control API and return its document. Query parameters that are None are left out."""
        return self._call(method, self.connection.url + path, body, {name: value for name, value in query.items() if value is not None})

    def gateway(self) -> str:
        """Return the gateway's URL, asked of the control API where the configuration does not tell it."""
        if self.connection.gateway_url:
            return self.connection.gateway_url.rstrip("/")
        if self._gateway is None:
            self._gateway = str(self.call("GET", "/v1/whoami")["gateway"]).rstrip("/")
        return self._gateway

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """Call the gateway and return its document."""
        return self._call("POST", self.gateway() + path, body, {}, _ANSWER_TIMEOUT_S)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Call the gateway and yield the events of its stream."""
        url = self.gateway() + path
        try:
            with self._http.stream("POST", url, json=body, timeout=_ANSWER_TIMEOUT_S) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _error(answer)
                yield from _events(answer)
        except httpx.TransportError as error:
            raise _away(url, error) from error

    def _call(self, method: str, url: str, body: Any, query: Mapping[str, Any], timeout_s: float = _TIMEOUT_S) -> Any:
        try:
            answer = self._http.request(method, url, json=body, params=query, timeout=timeout_s)
        except ValueError as error:
            raise RefusedError(
                f"the request cannot be written as JSON: {error}", hint="give finite numbers", reason="bad_number"
            ) from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise _away(url, error) from error
        if not answer.is_success:
            raise _error(answer)
        try:
            return answer.json()
        except ValueError as error:
            raise Unavailable(f"{url} answered no JSON", hint="is this the URL of a control API?", reason="no_json") from error


def _events(answer: httpx.Response) -> Iterator[Mapping[str, Any]]:
    for line in answer.iter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            detail = event["error"]
            raise Unavailable(str(detail.get("message", "the answer broke off")), hint="ask again", reason="broken_answer")
        yield event


def _away(url: str, error: Exception) -> Unavailable:
    where = str(url).split("/v1/", maxsplit=1)[0]
    hint = "start it with `seatrial up`, or run `seatrial doctor` on its machine"
    return Unavailable(f"the platform at {where} does not answer: {error}", hint=hint, reason="unreachable")


def _error(answer: httpx.Response) -> SeatrialError:
    try:
        detail = answer.json()["error"]
        what, hint = str(detail["message"]), str(detail.get("hint") or "")
        reason = str(detail.get("reason") or detail.get("code") or "")
    except (ValueError, KeyError, TypeError):
        what, hint, reason = f"{answer.url} answered {answer.status_code}", "is this the platform's URL?", ""
    return from_status(answer.status_code, what, hint, reason)
