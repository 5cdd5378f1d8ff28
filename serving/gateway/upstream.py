"""A pooled HTTP/1.1 client for engines on asyncio and httptools: keep-alive and streamed bodies; no redirects, no cookies."""

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


class ConnectFailed(Transient):
    """The connection to the engine failed, or was lost before the first byte of the answer."""


class EngineDraining(ConnectFailed):
    """The engine aborted the request before the first output because it is shutting down; its successor may answer a retry."""


class ResponseTruncated(Transient):
    """The engine's answer ended early, stalled, is too large, or is not valid."""


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
        self._error = ""
        self._keep_alive = False
        self.received = False
        self.head_done = False
        self.complete = False
        self.status = 0
        self.content_type = b""
        self.retry_after = b""

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self.complete and not self.lost and not self._error and self._keep_alive

    def send(self, data: bytes) -> None:
        """Send one request and start the stall timer."""
        self._reset()
        self._active_at = self._loop.time()
        self._start_timer()
        if self._transport is not None:
            self._transport.write(data)

    async def head(self) -> None:
        """Wait for status and headers. ConnectFailed when no byte arrived, ResponseTruncated when they are incomplete."""
        while not self.head_done:
            self._check()
            await self._wait()

    async def read(self) -> bytes:
        """Return the received part of the body, b"" at its end. ResponseTruncated when it ends early."""
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
            self._active_at = self._loop.time()
            self._transport.resume_reading()
        return data

    def stop_timer(self) -> None:
        """Stop the stall timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """Close the connection at once; the engine then stops generating."""
        self.lost = True
        self.stop_timer()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _check(self) -> None:
        if self._error:
            raise ResponseTruncated(self._error)
        if self.lost:
            raise (
                ResponseTruncated("the engine's answer broke off") if self.received else ConnectFailed("the engine closed the connection")
            )

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _start_timer(self) -> None:
        self.stop_timer()
        self._timer = self._loop.call_at(self._active_at + self._stall_s, self._check_stall)

    def _check_stall(self) -> None:
        """Abort when the engine sent nothing for `stall_s`. The time in which a slow client pauses the connection does not count."""
        if self._paused:
            self._active_at = self._loop.time()
        if self._loop.time() < self._active_at + self._stall_s:
            self._start_timer()
            return
        self._error = f"the engine sent nothing for {self._stall_s:g} s"
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: closed. The wait for the answer ends."""
        del exc
        self.lost = True
        self.stop_timer()
        self._wake()

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes were received."""
        self.received = True
        self._active_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._error = self._error or "the engine's answer is not HTTP/1.1"
            self.abort()
        self._wake()

    def on_message_begin(self) -> None:
        """httptools: an answer begins. A second answer to one request is an error."""
        if self.complete:
            self._error = "the engine answered twice"

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MAX_HEADERS:
            self._error = "the engine's headers are too large"
            raise Fault(self._error)
        lower = name.lower()
        if lower == b"content-type":
            self.content_type = value.lower()
        elif lower == b"retry-after":
            self.retry_after = value

    def on_headers_complete(self) -> None:
        """httptools: the body follows."""
        self.status = self._parser.get_status_code()
        self.head_done = self.status >= 200  # noqa: PLR2004 - 1xx is not the answer

    def on_body(self, body: bytes) -> None:
        """httptools: a part of the body."""
        self._parts.append(body)
        self._buffered += len(body)
        if self._buffered > _HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """httptools: the answer is complete."""
        self.complete = self.head_done
        self._keep_alive = bool(self._parser.should_keep_alive())  # the parser resets it after this call


class Exchange:
    """One request and its answer. As a context manager it releases the connection, or closes it when the answer was not read."""

    def __init__(self, upstream: Upstream, address: str, connection: Connection, cancellation: Cancellation) -> None:
        self._upstream = upstream
        self._address = address
        self._cancellation = cancellation
        self.connection = connection

    async def __aenter__(self) -> Self:
        """Return the exchange; its request was sent."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Release or close the connection."""
        self._cancellation.release()
        self._upstream.release(self._address, self.connection)

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. ResponseTruncated when it ends early or is larger than `max_bytes`."""
        parts: list[bytes] = []
        size = 0
        while data := await self.connection.read():
            parts.append(data)
            size += len(data)
            if size > max_bytes:
                raise ResponseTruncated(f"the engine's answer is larger than {max_bytes} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def drain(self, limit_s: float) -> None:
        """Read to the end, so that the connection can be reused. Close the connection after `limit_s`. Never raises."""
        try:
            async with asyncio.timeout(limit_s):
                while await self.connection.read():
                    pass
        except (TimeoutError, Transient):
            self.connection.abort()


class Upstream:
    """Connections to all engines, pooled per address and reused until they are `reuse_s` old.

    An address may be a Kubernetes Service, which selects one of its engines per connection and not per request. Because old
    connections expire, a new engine gets its share of requests, and an engine that is shutting down gets no new ones.
    """

    def __init__(self, *, connect_s: float = 2.0, stall_s: float = 300.0, hold_s: float = 0.0, reuse_s: float = 300.0) -> None:
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._hold_s = hold_s
        self._reuse_s = reuse_s
        self._idle: dict[str, deque[Connection]] = {}

    async def post(self, address: str, path: str, body: bytes, request_id: str, cancellation: Cancellation) -> Exchange:
        """Send a request and wait for the answer's head. ConnectFailed, ResponseTruncated.

        If a pooled connection turns out to be closed before the first byte of the answer, the request is sent once more on a new one.
        Failed connection attempts are retried for `hold_s`, while the engine is being replaced, until the client disconnects.
        """
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {address.partition('://')[2]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\n\r\n"
        ).encode("ascii")
        pooled = self._pooled(address)
        if pooled is not None:
            try:
                return await self._send(address, pooled, head + body, cancellation)
            except ConnectFailed:
                if cancellation.cancelled:
                    raise
        connection = await self._connect_with_retries(address, cancellation)
        return await self._send(address, connection, head + body, cancellation)

    async def _send(self, address: str, connection: Connection, data: bytes, cancellation: Cancellation) -> Exchange:
        cancellation.watch(connection)
        connection.send(data)
        try:
            await connection.head()
        except (Transient, asyncio.CancelledError):
            connection.abort()
            raise
        return Exchange(self, address, connection, cancellation)

    def release(self, address: str, connection: Connection) -> None:
        """Return the connection to the pool, or close it."""
        connection.stop_timer()
        idle = self._idle.setdefault(address, deque())
        if connection.reusable and self._is_fresh(connection) and len(idle) < _MAX_IDLE:
            idle.append(connection)
        else:
            connection.abort()

    def keep_only(self, addresses: set[str]) -> None:
        """Close the idle connections to all other addresses."""
        for address in self._idle.keys() - addresses:
            for connection in self._idle.pop(address):
                connection.abort()

    def _pooled(self, address: str) -> Connection | None:
        idle = self._idle.get(address)
        while idle:
            connection = idle.pop()
            if not connection.lost and self._is_fresh(connection):
                return connection
            connection.abort()
        return None

    def _is_fresh(self, connection: Connection) -> bool:
        return asyncio.get_running_loop().time() - connection.opened < self._reuse_s

    def pauses(self) -> Iterator[float]:
        """Yield the pause in seconds before each retry, with exponential growth, until `hold_s` has passed."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._hold_s
        pause = _FIRST_PAUSE_S
        while clock() + pause <= deadline:
            yield pause
            pause = min(_LONGEST_PAUSE_S, pause * 2)

    async def _connect_with_retries(self, address: str, cancellation: Cancellation) -> Connection:
        """Connect, retrying with growing pauses. Raises ConnectFailed after `hold_s`, or once the request is cancelled."""
        pauses = self.pauses()
        while True:
            try:
                return await self._connect(address)
            except ConnectFailed:
                pause = next(pauses, None)
                if cancellation.cancelled or pause is None:
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
            raise ConnectFailed(f"no connection to the engine at {address}", hint="it may be starting again") from error
        return connection


class Cancellation:
    """Whether the client disconnected. `cancel` closes the connection in use."""

    def __init__(self) -> None:
        self.cancelled = False
        self._connection: Connection | None = None

    def watch(self, connection: Connection) -> None:
        """Set the connection that the request uses."""
        self._connection = connection
        if self.cancelled:
            connection.abort()

    def release(self) -> None:
        """Unset the connection; another request may use it."""
        self._connection = None

    def cancel(self) -> None:
        """Cancel the request and close its connection."""
        self.cancelled = True
        if self._connection is not None:
            self._connection.abort()
