"""A lean pooled HTTP/1.1 client towards engines: asyncio and httptools, keep-alive, streamed bodies, no redirects, no cookies."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

import httptools

from core.errors import Fault, Transient

_HIGH_WATER = 256 * 1024
_MAX_IDLE = 256
_MAX_HEADERS = 64 * 1024
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0


class Unreachable(Transient):
    """No connection to the engine, or it was lost before a byte of the answer."""


class Abandoned(Unreachable):
    """The engine gave the request up before it had said anything: it is ending, and another follows."""


class Cut(Transient):
    """The engine's answer broke off, stalled, or is not valid HTTP."""


class Connection(asyncio.Protocol):
    """One connection to one engine, one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stall_s: float) -> None:
        self._loop = loop
        self._stall_s = stall_s
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.lost = False
        self.opened = loop.time()
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._buffered = 0
        self._header_bytes = 0
        self._paused = False
        self._problem = ""
        self._keep_alive = False
        self.heard = False
        self.head_done = False
        self.complete = False
        self.status = 0
        self.content_type = b""
        self.retry_after = b""

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        return self.complete and not self.lost and not self._problem and self._keep_alive

    def send(self, data: bytes) -> None:
        """Write one request and expect its answer."""
        self._reset()
        self._last = self._loop.time()
        self._arm()
        if self._transport is not None:
            self._transport.write(data)

    async def head(self) -> None:
        """Wait for status and headers. Unreachable when nothing came, Cut when it broke off in them."""
        while not self.head_done:
            self._check()
            await self._wait()

    async def read(self) -> bytes:
        """Return what has arrived of the body, b"" at its end. Cut when it breaks off."""
        while not self._parts:
            if self.complete:
                return b""
            self._check()
            await self._wait()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        if self._paused and self._transport is not None and not self.lost:
            self._paused = False
            self._last = self._loop.time()
            self._transport.resume_reading()
        return data

    def rest(self) -> None:
        """Stop the clock: the answer is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """Close at once; the engine sees that and stops generating."""
        self.lost = True
        self.rest()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _check(self) -> None:
        if self._problem:
            raise Cut(self._problem)
        if self.lost:
            raise (Cut("the engine's answer broke off") if self.heard else Unreachable("the engine closed the connection"))

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _arm(self) -> None:
        self.rest()
        self._timer = self._loop.call_at(self._last + self._stall_s, self._look)

    def _look(self) -> None:
        """End the wait when the engine was silent too long; a client that reads slowly is not the engine's silence."""
        if self._paused:
            self._last = self._loop.time()
        if self._loop.time() < self._last + self._stall_s:
            self._arm()
            return
        self._problem = f"the engine sent nothing for {self._stall_s:g} s"
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: closed. An answer without a length ends here and is whole."""
        del exc
        self.lost = True
        self.rest()
        self._wake()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes came."""
        self.heard = True
        self._last = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._problem = self._problem or "the engine's answer is not HTTP/1.1"
            self.abort()
        self._wake()

    def on_message_begin(self) -> None:
        """httptools: an answer begins; an unrequested answer is an error."""
        if self.complete:
            self._problem = "the engine answered twice"

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MAX_HEADERS:
            self._problem = "the engine's headers are too large"
            raise Fault(self._problem)
        lower = name.lower()
        if lower == b"content-type":
            self.content_type = value.lower()
        elif lower == b"retry-after":
            self.retry_after = value

    def on_headers_complete(self) -> None:
        """httptools: the body follows."""
        self.status = self._parser.get_status_code()
        self.head_done = self.status >= 200  # noqa: PLR2004 - 1xx announces, it does not answer

    def on_body(self, body: bytes) -> None:
        """httptools: a part of the body."""
        self._parts.append(body)
        self._buffered += len(body)
        if self._buffered > _HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """httptools: the answer is whole."""
        self.complete = self.head_done
        self._keep_alive = bool(self._parser.should_keep_alive())  # the parser forgets it after this


class Exchange:
    """One request and its answer. As a context manager it gives the connection back, or closes it when the answer was not read."""

    def __init__(self, engines: Upstream, address: str, connection: Connection, cancel: Cancel) -> None:
        self._engines = engines
        self._address = address
        self._cancel = cancel
        self.connection = connection

    async def __aenter__(self) -> Self:
        """Nothing to open: the request is on its way."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give back or close."""
        self._cancel.release()
        self._engines.give_back(self._address, self.connection)

    async def whole(self, limit: int) -> bytes:
        """Return the whole body. Cut when it breaks off or is larger than `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        while data := await self.connection.read():
            parts.append(data)
            size += len(data)
            if size > limit:
                raise Cut(f"the engine's answer is larger than {limit} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def drain(self, limit_s: float) -> None:
        """Read to the end, so that the connection can be kept. One that does not end in time is closed instead; never raises."""
        try:
            async with asyncio.timeout(limit_s):
                while await self.connection.read():
                    pass
        except (TimeoutError, Transient):
            self.connection.abort()


class Upstream:
    """Connections to all engines, kept alive per address, and used again until they are `reuse_s` old.

    An address may be a Service, which chooses one of its engines for a connection, not for a request: an engine that came last gets
    its part, and one that is to end gets nothing new, once the connections from before are no longer used.
    """

    def __init__(self, *, connect_s: float = 2.0, stall_s: float = 300.0, hold_s: float = 0.0, reuse_s: float = 300.0) -> None:
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._hold_s = hold_s
        self._reuse_s = reuse_s
        self._idle: dict[str, deque[Connection]] = {}

    async def post(self, address: str, path: str, body: bytes, request_id: str, cancel: Cancel) -> Exchange:
        """Send and wait for the answer's head. Unreachable, Cut.

        A kept connection that the engine had closed meanwhile, before a byte came back, is replaced by a fresh one, once. While no
        connection is had at all, the engine is being replaced: it is tried again for `hold_s`, as long as somebody waits.
        """
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {address.partition('://')[2]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n\r\n"
        ).encode("ascii")
        kept = self._kept(address)
        if kept is not None:
            try:
                return await self._send(address, kept, head + body, cancel)
            except Unreachable:
                if cancel.cancelled:
                    raise
        return await self._send(address, await self._connected(address, cancel), head + body, cancel)

    async def _send(self, address: str, connection: Connection, data: bytes, cancel: Cancel) -> Exchange:
        cancel.watch(connection)
        connection.send(data)
        try:
            await connection.head()
        except (Transient, asyncio.CancelledError):
            connection.abort()
            raise
        return Exchange(self, address, connection, cancel)

    def give_back(self, address: str, connection: Connection) -> None:
        """Keep the connection for the next request, or close it."""
        connection.rest()
        idle = self._idle.setdefault(address, deque())
        if connection.reusable and self._young(connection) and len(idle) < _MAX_IDLE:
            idle.append(connection)
        else:
            connection.abort()

    def forget(self, addresses: set[str]) -> None:
        """Close kept connections to every address that is not among these."""
        for address in self._idle.keys() - addresses:
            for connection in self._idle.pop(address):
                connection.abort()

    def _kept(self, address: str) -> Connection | None:
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if not connection.lost and self._young(connection):
                return connection
            connection.abort()
        return None

    def _young(self, connection: Connection) -> bool:
        return asyncio.get_running_loop().time() - connection.opened < self._reuse_s

    def pauses(self) -> Iterator[float]:
        """Yield how long to wait before each further try, growing, until the request was held for `hold_s`."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._hold_s
        pause = _FIRST_PAUSE_S
        while clock() + pause <= give_up:
            yield pause
            pause = min(_LONGEST_PAUSE_S, pause * 2)

    async def _connected(self, address: str, cancel: Cancel) -> Connection:
        """Connect, retrying with growing pauses. Raises Unreachable after `hold_s`, or once the request is cancelled."""
        pauses = self.pauses()
        while True:
            try:
                return await self._connect(address)
            except Unreachable:
                pause = next(pauses, None)
                if cancel.cancelled or pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _connect(self, address: str) -> Connection:
        loop = asyncio.get_running_loop()
        url = urlsplit(address)
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._stall_s), url.hostname or address, url.port or 80
                )
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"no connection to the engine at {address}", hint="it may be starting again") from error
        return connection


class Cancel:
    """Signals that the client no longer waits for the answer; the connection in use is then closed."""

    def __init__(self) -> None:
        self.cancelled = False
        self._connection: Connection | None = None

    def watch(self, connection: Connection) -> None:
        """Name the connection that the request runs on now."""
        self._connection = connection
        if self.cancelled:
            connection.abort()

    def release(self) -> None:
        """Forget the connection: it is this request's no more."""
        self._connection = None

    def cancel(self) -> None:
        """Cancel the request and close its connection."""
        self.cancelled = True
        if self._connection is not None:
            self._connection.abort()
