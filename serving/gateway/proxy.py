"""Forwards a request to its engine and the answer to the client, and records the answer's usage."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus

from core.conversations import Outcome
from core.endpoints import Target
from core.errors import Fault, SeatrialError
from core.reasons import Reason
from serving.gateway.chunks import Chunk, parse_chunk, rename
from serving.gateway.metering import CLIENT_GONE_STATUS, UsageRecorder
from serving.gateway.requests import CompletionRequest
from serving.gateway.responses import (
    BAD_REQUEST,
    ENGINE,
    Headers,
    Message,
    Receive,
    Rejected,
    Response,
    Send,
    error_body,
    json_response,
    send_response,
    unavailable,
)
from serving.gateway.sampling import select_choice
from serving.gateway.sse import DONE, EventDecoder, encode_event
from serving.gateway.upstream import Cancellation, ConnectFailed, EngineDraining, Exchange, ResponseTruncated, Upstream

BEST_OF = b"x-seatrial-best-of"
_MAX_RESPONSE = 32 * 1024 * 1024
_DRAIN_S = 1.0
_BUSY = frozenset({429, 503})
_ABORT = "abort"
_GATEWAY_ERRORS = frozenset({401, 403, 404, 405, 407, 408})
"""Statuses 4xx that the client did not cause: the gateway sets the path, the model's name and the credentials."""


class CompletionProxy:
    """Forwards one request. `names` are the `id` and `model` that the client gets in the answer."""

    def __init__(self, upstream: Upstream, recorder: UsageRecorder, send: Send, headers: Headers, names: dict[str, str]) -> None:
        self._upstream = upstream
        self._recorder = recorder
        self._send = send
        self._headers = headers
        self._names = names
        self._cancellation = Cancellation()
        self._started = False
        self._has_output = False

    async def run(self, request: CompletionRequest, target: Target, request_id: str, receive: Receive) -> tuple[Outcome, int]:
        """Respond to the client and return outcome and status. If the client disconnects, cancel the engine's work."""
        self._watch = asyncio.ensure_future(receive())
        self._watch.add_done_callback(self._client_gone)
        try:
            return await self._forward(request, target, request_id)
        except (ConnectFailed, ResponseTruncated, Fault) as error:
            return await self._respond_to_failure(error)
        finally:
            self._ignore_disconnect()
            self._watch.cancel()

    def _client_gone(self, _watch: asyncio.Future[Message]) -> None:
        self._cancellation.cancel()

    def _ignore_disconnect(self) -> None:
        """Stop watching the client: the last part is being sent, and servers report the end of a response as a disconnect too."""
        self._watch.remove_done_callback(self._client_gone)

    async def _forward(self, request: CompletionRequest, target: Target, request_id: str) -> tuple[Outcome, int]:
        """Forward the request. Retry while an engine that is shutting down aborts it before the first output."""
        if target.address is None:
            return await self._respond(_unavailable("the engine of this conversation's version is not ready"))
        pauses = self._upstream.pauses()
        while True:
            try:
                return await self._forward_once(request, target.address, request_id)
            except EngineDraining:
                pause = next(pauses, None)
                if self._cancellation.cancelled or pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _forward_once(self, request: CompletionRequest, address: str, request_id: str) -> tuple[Outcome, int]:
        async with await self._upstream.post(address, request.kind.value, request.body, request_id, self._cancellation) as exchange:
            connection = exchange.connection
            if connection.status == HTTPStatus.OK and connection.content_type.startswith(b"text/event-stream"):
                return await self._forward_stream(exchange, show_usage=request.show_usage)
            body = await exchange.read_all(_MAX_RESPONSE)
        if connection.status == HTTPStatus.OK:
            return await self._forward_whole(request, body)
        if connection.status == HTTPStatus.BAD_REQUEST and request.single is not None:
            self._headers = [(name, b"1" if name == BEST_OF else value) for name, value in self._headers]
            return await self._forward_once(request.single, address, request_id)
        return await self._respond(_error_response(connection.status, body))

    async def _forward_whole(self, request: CompletionRequest, body: bytes) -> tuple[Outcome, int]:
        chunk = parse_chunk(body)
        if chunk is None or chunk.error:
            raise ResponseTruncated("the engine's answer is not a completion")
        self._record(chunk)
        if request.draws == 1:
            return await self._respond(Response(HTTPStatus.OK, rename(body, chunk.document, self._names)))
        document, index = select_choice(request, chunk.document)
        self._recorder.select_choice(index)
        return await self._respond(json_response({**document, **self._names}))

    async def _respond(self, response: Response) -> tuple[Outcome, int]:
        self._ignore_disconnect()
        await send_response(self._send, response, self._headers)
        return _outcome(response.status), int(response.status)

    def _record(self, chunk: Chunk) -> None:
        """Record the chunk. EngineDraining or ResponseTruncated when vLLM aborted, which it reports as a finish reason with status 200."""
        aborted = _ABORT in chunk.finish_reasons.values()
        self._has_output = self._has_output or chunk.has_output
        if aborted and not self._has_output:
            raise EngineDraining("the engine aborted the request while shutting down")
        self._recorder.record(chunk)
        if aborted:
            raise ResponseTruncated("the engine aborted the answer while shutting down")

    async def _forward_stream(self, exchange: Exchange, *, show_usage: bool) -> tuple[Outcome, int]:
        """Forward the stream from its first output: before that, the request can still be retried."""
        decoder = EventDecoder()
        done = False
        pending: list[bytes] = []
        while not done and (data := await exchange.connection.read()):
            for payload in decoder.feed(data):
                done = done or payload == DONE
                if not done and (line := self._event(payload, show_usage=show_usage)):
                    pending.append(line)
            if pending and self._has_output:
                await self._send_part(b"".join(pending))
                pending.clear()
        if not done and self._recorder.finish_reason is None:
            raise ResponseTruncated("the engine's answer ended early")
        self._ignore_disconnect()
        await self._send_part(b"".join([*pending, encode_event(DONE)]), last=True)
        await exchange.drain(_DRAIN_S)
        return Outcome.OK, int(HTTPStatus.OK)

    def _event(self, payload: bytes, *, show_usage: bool) -> bytes:
        """Record one event of the engine and return the event for the client, which may be empty."""
        chunk = parse_chunk(payload)
        if chunk is None:
            raise ResponseTruncated("the engine streamed an event that is not a completion")
        if chunk.error:
            raise ResponseTruncated(f"the engine reported: {engine_error(chunk.document)[0] or 'an error'}")
        self._record(chunk)
        if chunk.only_usage and not show_usage:
            return b""
        return encode_event(rename(payload, chunk.document, self._names))

    async def _send_part(self, data: bytes, *, last: bool = False) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), *self._headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _respond_to_failure(self, error: SeatrialError) -> tuple[Outcome, int]:
        if self._cancellation.cancelled:
            return Outcome.CLIENT_GONE, CLIENT_GONE_STATUS
        self._ignore_disconnect()
        if self._started:
            await self._send_part(encode_event(error_body(str(error), kind=ENGINE, param=None, code=Reason.ENGINE_ERROR)), last=True)
            return Outcome.ENGINE_ERROR, int(HTTPStatus.OK)
        return await self._respond(_unavailable(str(error)) if isinstance(error, ConnectFailed) else _engine_failed(str(error)))


def engine_error(document: Mapping[str, object]) -> tuple[str, str | None, str | int | None]:
    """Return (message, param, code) of an engine's error document, in OpenAI's shape or in an older one of vLLM."""
    error = document.get("error", document)
    if not isinstance(error, dict):
        return (error if isinstance(error, str) else ""), None, None
    message, param, code = error.get("message", error.get("detail")), error.get("param"), error.get("code")
    return (
        message if isinstance(message, str) else "",
        param if isinstance(param, str) else None,
        code if isinstance(code, str | int) else None,
    )


def _error_response(status: int, body: bytes) -> Response:
    """Return the response to the client for an error status of the engine."""
    if status in _BUSY:
        return _unavailable("the engine accepts no more requests at the moment")
    if not 400 <= status < 500 or status in _GATEWAY_ERRORS:  # noqa: PLR2004
        return _engine_failed(f"the engine failed with status {status}")
    message, param, code = engine_error(_document(body))
    text = message or f"the engine refused the request with status {status}"
    return Response(status, error_body(text, kind=BAD_REQUEST, param=param, code=code))


def _document(body: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _unavailable(what: str) -> Response:
    return unavailable(what, reason=Reason.MODEL_NOT_READY).response()


def _engine_failed(what: str) -> Response:
    return Rejected(502, what, reason=Reason.ENGINE_ERROR, kind=ENGINE, hint="try again; the engine's log has the cause").response()


def _outcome(status: int) -> Outcome:
    if status == HTTPStatus.OK:
        return Outcome.OK
    return Outcome.CLIENT_ERROR if status < HTTPStatus.INTERNAL_SERVER_ERROR else Outcome.ENGINE_ERROR
