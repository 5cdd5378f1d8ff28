"""From a placed request to its answer: ask the engine, pass on what it says, meter how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus

from core.conversations import Outcome
from core.endpoints import Target
from core.errors import Fault, SeatrialError
from serving.gateway.chunks import Piece, read_piece, rename
from serving.gateway.metering import GONE_STATUS, Meter
from serving.gateway.requests import Ask
from serving.gateway.responses import (
    BAD_REQUEST,
    ENGINE,
    Answer,
    Headers,
    Message,
    Receive,
    Rejected,
    Send,
    error_body,
    json_answer,
    send_answer,
    unavailable,
)
from serving.gateway.sampling import choose
from serving.gateway.sse import DONE, Events, event
from serving.gateway.upstream import Abandoned, Cancel, Cut, Exchange, Unreachable, Upstream

BEST_OF = b"x-seatrial-best-of"
_MAX_ANSWER = 32 * 1024 * 1024
_DRAIN_S = 1.0
_BUSY = frozenset({429, 503})
_ABANDONED = "abort"
_NOT_THE_CLIENTS = frozenset({401, 403, 404, 405, 407, 408})
"""4xx that tell of our set-up and not of the client's request: it was this gateway that chose path, name and credentials."""


class Relay:
    """One request on its way through. `names` are the answer's `id` and `model` as the client must see them."""

    def __init__(self, upstream: Upstream, meter: Meter, send: Send, headers: Headers, names: dict[str, str]) -> None:
        self._upstream = upstream
        self._meter = meter
        self._send = send
        self._headers = headers
        self._names = names
        self._cancel = Cancel()
        self._started = False
        self._begun = False

    async def run(self, ask: Ask, target: Target, request_id: str, receive: Receive) -> None:
        """Answer the client, then settle. A client that goes takes the engine's work with it."""
        self._watch = asyncio.ensure_future(receive())
        self._watch.add_done_callback(self._client_gone)
        try:
            outcome, status = await self._ask(ask, target, request_id)
        except (Unreachable, Cut, Fault) as error:
            outcome, status = await self._failed(error)
        finally:
            self._let_go()
            self._watch.cancel()
        self._meter.settle(outcome, status)

    def _client_gone(self, _watch: asyncio.Future[Message]) -> None:
        self._cancel.cancel()

    def _let_go(self) -> None:
        """Stop minding the client: what it gets last is on its way, and a server tells the end of an answer as a disconnect too."""
        self._watch.remove_done_callback(self._client_gone)

    async def _ask(self, ask: Ask, target: Target, request_id: str) -> tuple[Outcome, int]:
        """Ask until somebody answers: what an ending engine gives up before it said anything, the one that follows it may answer."""
        if target.address is None:
            return await self._end(_away("the engine of this conversation's version is not ready"))
        pauses = self._upstream.pauses()
        while True:
            try:
                return await self._ask_once(ask, target.address, request_id)
            except Abandoned:
                pause = next(pauses, None)
                if self._cancel.cancelled or pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _ask_once(self, ask: Ask, address: str, request_id: str) -> tuple[Outcome, int]:
        async with await self._upstream.post(address, ask.kind.value, ask.body, request_id, self._cancel) as exchange:
            connection = exchange.connection
            if connection.status == HTTPStatus.OK and connection.content_type.startswith(b"text/event-stream"):
                return await self._stream(exchange, show_usage=ask.show_usage)
            body = await exchange.whole(_MAX_ANSWER)
        if connection.status == HTTPStatus.OK:
            return await self._whole(ask, body)
        if connection.status == HTTPStatus.BAD_REQUEST and ask.single is not None:
            self._headers = [(name, b"1" if name == BEST_OF else value) for name, value in self._headers]
            return await self._ask_once(ask.single, address, request_id)
        return await self._end(_refusal(connection.status, body))

    async def _whole(self, ask: Ask, body: bytes) -> tuple[Outcome, int]:
        piece = read_piece(body)
        if piece is None or piece.error:
            raise Cut("the engine's answer is not a completion")
        self._note(piece)
        if ask.draws == 1:
            return await self._end(Answer(HTTPStatus.OK, rename(body, piece.document, self._names)))
        document, index = choose(ask, piece.document)
        self._meter.sent(index)
        return await self._end(json_answer({**document, **self._names}))

    async def _end(self, answer: Answer) -> tuple[Outcome, int]:
        self._let_go()
        await send_answer(self._send, answer, self._headers)
        return _outcome(answer.status), int(answer.status)

    def _note(self, piece: Piece) -> None:
        """Meter the piece. Raises Abandoned or Cut when vLLM aborted unasked, which it reports as a finish reason with status 200."""
        abandoned = _ABANDONED in piece.finish_reasons.values()
        self._begun = self._begun or piece.begun
        if abandoned and not self._begun:
            raise Abandoned("the engine gave the request up, as one does that is ending")
        self._meter.note(piece)
        if abandoned:
            raise Cut("the engine gave the answer up half way, as one does that is ending")

    async def _stream(self, exchange: Exchange, *, show_usage: bool) -> tuple[Outcome, int]:
        """Pass the stream on from the first thing that the model says: until then another engine may still be asked."""
        events = Events()
        done = False
        shown: list[bytes] = []
        while not done and (data := await exchange.connection.read()):
            for payload in events.feed(data):
                done = done or payload == DONE
                if not done and (line := self._chunk(payload, show_usage=show_usage)):
                    shown.append(line)
            if shown and self._begun:
                await self._emit(b"".join(shown))
                shown.clear()
        if not done and self._meter.finish_reason is None:
            raise Cut("the engine's answer ended before it was whole")
        self._let_go()
        await self._emit(b"".join([*shown, event(DONE)]), last=True)
        await exchange.drain(_DRAIN_S)
        return Outcome.OK, int(HTTPStatus.OK)

    def _chunk(self, payload: bytes, *, show_usage: bool) -> bytes:
        """Return what the client sees of one chunk, which may be nothing."""
        piece = read_piece(payload)
        if piece is None:
            raise Cut("the engine streamed an event that is not a completion")
        if piece.error:
            raise Cut(f"the engine reported: {said_wrong(piece.document)[0] or 'an error'}")
        self._note(piece)
        if piece.only_usage and not show_usage:
            return b""
        return event(rename(payload, piece.document, self._names))

    async def _emit(self, data: bytes, *, last: bool = False) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), *self._headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _failed(self, error: SeatrialError) -> tuple[Outcome, int]:
        if self._cancel.cancelled:
            return Outcome.CLIENT_GONE, GONE_STATUS
        self._let_go()
        if self._started:
            await self._emit(event(error_body(str(error), kind=ENGINE, param=None, code="engine_error")), last=True)
            return Outcome.ENGINE_ERROR, int(HTTPStatus.OK)
        return await self._end(_away(str(error)) if isinstance(error, Unreachable) else _broken(str(error)))


def said_wrong(document: Mapping[str, object]) -> tuple[str, str | None, str | int | None]:
    """Return (message, param, code) of an engine's error document, in OpenAI's shape or one of those that vLLM used before."""
    error = document.get("error", document)
    if not isinstance(error, dict):
        return (error if isinstance(error, str) else ""), None, None
    message, param, code = error.get("message", error.get("detail")), error.get("param"), error.get("code")
    return (
        message if isinstance(message, str) else "",
        param if isinstance(param, str) else None,
        code if isinstance(code, str | int) else None,
    )


def _refusal(status: int, body: bytes) -> Answer:
    """Return what the client sees of an engine's error status."""
    if status in _BUSY:
        return _away("the engine takes no more requests now")
    if not 400 <= status < 500 or status in _NOT_THE_CLIENTS:  # noqa: PLR2004
        return _broken(f"the engine failed with status {status}")
    message, param, code = said_wrong(_document(body))
    text = message or f"the engine refused the request with status {status}"
    return Answer(status, error_body(text, kind=BAD_REQUEST, param=param, code=code))


def _document(body: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _away(what: str) -> Answer:
    return unavailable(what, reason="model_not_ready").answer()


def _broken(what: str) -> Answer:
    return Rejected(502, what, reason="engine_error", kind=ENGINE, hint="try again; the engine's log has the cause").answer()


def _outcome(status: int) -> Outcome:
    if status == HTTPStatus.OK:
        return Outcome.OK
    return Outcome.CLIENT_ERROR if status < HTTPStatus.INTERNAL_SERVER_ERROR else Outcome.ENGINE_ERROR
