"""The same short question, to the engine directly and through the gateway, in turn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

from core.ids import EndpointName
from core.settings import read_settings
from wiring import Platform

_PAIRS = 200
_WARM_UP = 20
_ENDPOINT = EndpointName("bench-0")


def compare_engine_and_gateway(home: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Return medians and spread (ms) of a whole answer (16 tokens, greedy) and of a stream's first byte; added is pair by pair."""
    here = Platform(read_settings({"SEATRIAL_HOME": str(home), "HOME": str(home)}))
    version = here.records.endpoints.get(_ENDPOINT).stable
    if version is None:
        raise SystemExit(f"{_ENDPOINT} serves nothing")
    gateway = json.loads((home / "run" / "client.json").read_text(encoding="utf-8"))["gateway_url"]
    key = {"Authorization": f"Bearer {(home / 'operator.key').read_text(encoding='ascii').strip()}"}
    address = here.engines.state(version).address or ""
    with httpx.Client(base_url=address, timeout=60) as direct, httpx.Client(base_url=gateway, headers=key, timeout=60) as through:
        return {
            "whole answer, 16 tokens": _pairs(lambda: _whole(direct, version), lambda: _whole(through, _ENDPOINT)),
            "first byte of a stream": _pairs(lambda: _first(direct, version), lambda: _first(through, _ENDPOINT)),
        }


def _pairs(engine: Callable[[], float], gateway: Callable[[], float]) -> dict[str, dict[str, float]]:
    rows = [_pair(engine, gateway, gateway_first=number % 2 == 1) for number in range(_PAIRS + _WARM_UP)][_WARM_UP:]
    added = [through - direct for direct, through in rows]
    return {"engine": _spread([row[0] for row in rows]), "gateway": _spread([row[1] for row in rows]), "added": _spread(added)}


def _pair(engine: Callable[[], float], gateway: Callable[[], float], *, gateway_first: bool) -> tuple[float, float]:
    """Ask both, in an order that changes from pair to pair: neither always finds the caches warm."""
    if gateway_first:
        through = gateway()
        return engine(), through
    return engine(), gateway()


def _spread(seconds: list[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=20)
    return {"median": median(seconds) * 1000, "p5": cuts[0] * 1000, "p95": cuts[-1] * 1000}


def _body(model: str, *, stream: bool) -> dict[str, Any]:
    hello = [{"role": "user", "content": "Hello! What can you do?"}]
    return {"model": model, "messages": hello, "max_tokens": 16, "temperature": 0, "stream": stream}


def _whole(client: httpx.Client, model: str) -> float:
    begun = time.perf_counter()
    client.post("/v1/chat/completions", json=_body(model, stream=False)).raise_for_status()
    return time.perf_counter() - begun


def _first(client: httpx.Client, model: str) -> float:
    begun = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=_body(model, stream=True)) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        seconds = time.perf_counter() - begun
        for _ in pieces:  # to the end, so that the connection is used again
            pass
    return seconds
