"""The gateway's added latency and CPU per request: `python tests/bench/bench_gateway.py` (from the checkout's root, some 15 s).

A raw engine that answers at once stands in another process, the gateway under uvicorn in a second one, the load in this one.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing as mp
import os
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

BODY = json.dumps({"model": "harbour", "messages": [{"role": "user", "content": "hi"}]}).encode()
SECONDS = 2.0


class _Engine(asyncio.Protocol):
    """Answers whatever carries a whole request with the same small completion."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, found, body = self._seen.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            self._seen = b""
            self._transport.write(_answer())


def _answer() -> bytes:
    text = "The quay is open from six. " * 8
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 60, "total_tokens": 69}
    document = {"id": "chatcmpl-x", "object": "chat.completion", "created": 1, "model": "served", "choices": [choice], "usage": usage}
    body = json.dumps(document, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _run_engine(port: int) -> None:
    import uvloop  # noqa: PLC0415

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(_Engine, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


class _NoLedger:
    """Writes nothing: the spool's own cost is measured with the ledger."""

    def reserve(self, reservation: object) -> None: ...
    def settle(self, completion: object) -> None: ...
    def vote(self, feedback: object) -> None: ...
    def find(self, completion: object) -> None: ...
    def ship(self) -> int:
        return 0


def _run_gateway(port: int, engine_port: int) -> None:
    import uvicorn  # noqa: PLC0415

    from core.ports.clock import SystemClock  # noqa: PLC0415
    from serving.gateway.app import gateway  # noqa: PLC0415
    from serving.gateway.assignments import InProcessAssignments  # noqa: PLC0415
    from tests.equipment.gateway_doubles import FixedRoutes, caller, route  # noqa: PLC0415

    routes = FixedRoutes({"st-bench": caller("bench")}, route(f"http://127.0.0.1:{engine_port}"))
    app: Any = gateway(routes, _NoLedger(), InProcessAssignments(), SystemClock(), name="bench")
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", log_level="warning", access_log=False)


def _free_port() -> int:
    with socket.socket() as wire:
        wire.bind(("127.0.0.1", 0))
        return int(wire.getsockname()[1])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _asker(port: int, until: float, seconds: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer st-bench\r\ncontent-length: {len(BODY)}\r\n\r\n"
    while time.perf_counter() < until:
        began = time.perf_counter()
        writer.write(head.encode() + BODY)
        told = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in told.split(b"\r\n")[0]:
            raise RuntimeError(told.decode())
        await reader.readexactly(int(told.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        seconds.append(time.perf_counter() - began)
    writer.close()


async def _load(port: int, concurrency: int) -> list[float]:
    seconds: list[float] = []
    until = time.perf_counter() + SECONDS
    await asyncio.gather(*(_asker(port, until, seconds) for _ in range(concurrency)))
    return seconds


def _wait_for(port: int, deadline_s: float = 10.0) -> None:
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        with socket.socket() as wire:
            if wire.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def bench() -> dict[str, dict[str, float]]:
    """Return, per concurrency, p50 and p99 (ms) direct and through the gateway, requests per second, and CPU per request (us)."""
    context, engine_port, port = mp.get_context("spawn"), _free_port(), _free_port()
    engine = context.Process(target=_run_engine, args=(engine_port,), daemon=True)
    served = context.Process(target=_run_gateway, args=(port, engine_port), daemon=True)
    engine.start()
    served.start()
    try:
        _wait_for(engine_port)
        _wait_for(port)
        return {str(concurrency): _measure(engine_port, port, served.pid or 0, concurrency) for concurrency in (1, 32)}
    finally:
        for process in (served, engine):
            process.terminate()
            process.join(5)


def _measure(engine_port: int, port: int, pid: int, concurrency: int) -> dict[str, float]:
    asyncio.run(_load(port, 1))  # warm
    direct = asyncio.run(_load(engine_port, concurrency))
    before = _cpu_s(pid)
    through = asyncio.run(_load(port, concurrency))
    cpu_us = (_cpu_s(pid) - before) / len(through) * 1e6
    (d50, d99), (g50, g99) = _quantiles(direct), _quantiles(through)
    return {
        "direct_p50_ms": d50, "direct_p99_ms": d99, "gateway_p50_ms": g50, "gateway_p99_ms": g99,
        "added_p50_ms": g50 - d50, "added_p99_ms": g99 - d99, "direct_per_s": len(direct) / SECONDS,
        "gateway_per_s": len(through) / SECONDS, "cpu_us_per_request": cpu_us,
    }  # fmt: skip


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49] * 1e3, cuts[98] * 1e3


def main() -> dict[str, dict[str, float]]:
    """Measure and print a table."""
    found = bench()
    print(f"{'at once':>8} " + " ".join(f"{name:>18}" for name in found["1"]))  # noqa: T201
    for concurrency, row in found.items():
        print(f"{concurrency:>8} " + " ".join(f"{value:>18.3f}" for value in row.values()))  # noqa: T201
    return found


if __name__ == "__main__":
    main()
