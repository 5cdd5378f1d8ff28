"""The gateway's CPU time per request: `python tests/bench/bench_gateway_cpu.py [OTHER_CHECKOUT]` (from the checkout's root).

The engine is a double in the same process that answers without a socket, so the figure has no network and no second process in it.
With another checkout, both are measured in turn, in short rounds. The last column is the ratio of the 5 % quantiles: the quickest rounds
are those that other work on the machine disturbed least.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "1000"))
REQUESTS = {"whole": 20, "stream": 8}
WARM_UP = 50
KEY = "st-bench"
_HEAD = {"id": "chatcmpl-x", "object": "chat.completion", "created": 1, "model": "served"}
_USAGE = {"prompt_tokens": 9, "completion_tokens": 60, "total_tokens": 69}


def _whole() -> list[bytes]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "The quay is open from six. " * 8}, "finish_reason": "stop"}
    body = json.dumps({**_HEAD, "choices": [choice], "usage": _USAGE}, separators=(",", ":")).encode()
    return [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)]


def _stream() -> list[bytes]:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": f" word{number}"}, None) for number in range(20)]
    deltas.append(({}, "stop"))
    documents = [{**_HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]} for delta, reason in deltas]
    texts = [json.dumps(one, separators=(",", ":")) for one in [*documents, {**_HEAD, "choices": [], "usage": _USAGE}]]
    events = [f"data: {text}\n\n".encode() for text in [*texts, "[DONE]"]]
    return [head, *(b"%x\r\n%s\r\n" % (len(event), event) for event in events), b"0\r\n\r\n"]


ANSWERS = {"whole": _whole(), "stream": _stream()}


class _Transport(asyncio.Transport):
    """Answers each request that is written to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        for part in ANSWERS["stream" if b'"stream":true' in bytes(data) else "whole"]:
            self._loop.call_soon(self._protocol.data_received, part)

    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class _Loop(asyncio.SelectorEventLoop):
    """Connects to the double, whatever the address is."""

    async def create_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        protocol = protocol_factory()
        transport = _Transport(self, protocol)
        protocol.connection_made(transport)
        return transport, protocol


class _NoLedger:
    def reserve(self, reservation: object) -> None: ...
    def settle(self, completion: object) -> None: ...
    def ship(self) -> int:
        return 0


def _scope(kind: str, number: int) -> tuple[dict[str, Any], bytes]:
    body: dict[str, Any] = {"model": "harbour", "messages": [{"role": "user", "content": f"hi {number % 50}"}]}
    raw = json.dumps({**body, "stream": True} if kind == "stream" else body, separators=(",", ":")).encode()
    headers = [(b"host", b"x"), (b"authorization", f"Bearer {KEY}".encode()), (b"content-length", str(len(raw)).encode())]
    return {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "client": ("127.0.0.1", 1)}, raw


async def _request(app: Any, kind: str, number: int, gone: asyncio.Event) -> None:
    scope, raw = _scope(kind, number)
    sent: list[Any] = []
    bodies = iter([{"type": "http.request", "body": raw, "more_body": False}])

    async def receive() -> Any:
        if (message := next(bodies, None)) is not None:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if sent[0]["status"] != 200:
        raise RuntimeError(str(sent))


async def _serve_rounds() -> None:
    from core.ports.clock import SystemClock  # noqa: PLC0415
    from serving.gateway.app import gateway  # noqa: PLC0415
    from serving.gateway.assignments import InProcessAssignments  # noqa: PLC0415
    from tests.equipment.gateway_doubles import FixedRoutes, caller, route  # noqa: PLC0415

    routes = FixedRoutes({KEY: caller("bench")}, route("http://127.0.0.1:1"))
    slow = {"refresh_s": 3600.0, "heartbeat_s": 3600.0, "ship_s": 3600.0}
    app: Any = gateway(routes, _NoLedger(), InProcessAssignments(), SystemClock(), name="bench", **slow)  # type: ignore[arg-type]
    lifespan: asyncio.Queue[Any] = asyncio.Queue()
    started = asyncio.Event()

    async def started_or_stopped(_message: Any) -> None:
        started.set()

    lifespan.put_nowait({"type": "lifespan.startup"})
    running = asyncio.ensure_future(app({"type": "lifespan"}, lifespan.get, started_or_stopped))
    await started.wait()
    gone = asyncio.Event()
    while kind := sys.stdin.readline().strip():
        began = time.process_time()
        for number in range(REQUESTS[kind]):
            await _request(app, kind, number, gone)
        print((time.process_time() - began) / REQUESTS[kind] * 1e6, flush=True)  # noqa: T201
    lifespan.put_nowait({"type": "lifespan.shutdown"})
    await running


class Worker:
    """A process that serves requests with the gateway of one checkout."""

    def __init__(self, checkout: Path) -> None:
        environ = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0"}
        command = [sys.executable, str(Path(__file__).resolve()), "--worker"]
        self._process = subprocess.Popen(
            command, cwd=checkout, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def measure(self, kind: str) -> float:
        """Return the CPU time of one request in microseconds, as the mean of one round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kind}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def compare(checkouts: list[Path]) -> dict[str, list[list[float]]]:
    """Return, for each kind of answer and each checkout, the CPU time per request (us) of each round."""
    workers = [Worker(checkout) for checkout in checkouts]
    found: dict[str, list[list[float]]] = {kind: [[] for _ in workers] for kind in REQUESTS}
    for turn in range(ROUNDS + WARM_UP):
        for kind in REQUESTS:
            order = list(enumerate(workers))
            for index, worker in order if turn % 2 else reversed(order):
                cpu_us = worker.measure(kind)
                if turn >= WARM_UP:
                    found[kind][index].append(cpu_us)
    for worker in workers:
        worker.close()
    return found


def main() -> None:
    """Measure and print a table."""
    if sys.argv[1:] == ["--worker"]:
        _Loop().run_until_complete(_serve_rounds())
        return
    checkouts = [ROOT, *(Path(name).resolve() for name in sys.argv[1:])]
    print(f"{'answer':>8} {'checkout':<32} {'5 % us':>8} {'median us':>10} {'this / other':>13}")  # noqa: T201
    for kind, rounds in compare(checkouts).items():
        for checkout, times in zip(checkouts, rounds, strict=True):
            low = _low(times)
            print(f"{kind:>8} {checkout!s:<32} {low:>8.1f} {statistics.median(times):>10.1f} {_low(rounds[0]) / low:>13.3f}")  # noqa: T201


def _low(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[0]


if __name__ == "__main__":
    main()
