"""HTTP towards the control API and the gateway: one place that turns answers into documents and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from seatrial.config import Connection
from seatrial.errors import InvalidArgument, RefusedError, SeatrialError, Unavailable, from_status
from seatrial.types import expected

_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 600.0


class Transport:
    """Calls of one platform with one key. Raises InvalidArgument where this machine's HTTP settings cannot be used."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._gateway: str | None = None
        headers = {"Authorization": f"Bearer {connection.key}"}
        try:
            self._http = httpx.Client(headers=headers, timeout=_TIMEOUT_S)
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as error:
            hint = "correct the proxy and certificate variables (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR)"
            raise InvalidArgument(f"the HTTP client cannot be set up: {error}", hint=hint, reason="bad_http_settings") from error

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
            with expected("the caller's document"):
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
        except UnicodeEncodeError as error:
            raise _unwritable(error) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _away(url, error) from error

    def _call(self, method: str, url: str, body: Any, query: Mapping[str, Any], timeout_s: float = _TIMEOUT_S) -> Any:
        try:
            answer = self._http.request(method, url, json=body, params=query, timeout=timeout_s)
        except UnicodeEncodeError as error:
            raise _unwritable(error) from error
        except ValueError as error:
            raise RefusedError(
                f"the request cannot be written as JSON: {error}", hint="give finite numbers", reason="bad_number"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
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
        with expected("an event of the stream"):
            event = json.loads(data)
            broken = event.get("error")
            message = str(broken.get("message", "the answer broke off")) if "error" in event else None
        if message is not None:
            raise Unavailable(message, hint="ask again", reason="broken_answer")
        yield event


def _unwritable(error: UnicodeEncodeError) -> InvalidArgument:
    what = f"the request cannot be written as UTF-8: {error.reason} at character {error.start}"
    return InvalidArgument(what, hint="give text that is valid UTF-8", reason="bad_text")


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
