"""A gateway that serves over HTTP, and its client."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai

from core.access import Role
from core.ports.clock import SystemClock
from serving.gateway.app import gateway
from serving.gateway.assignments import InProcessAssignments
from tests.equipment.gateway_doubles import HARBOUR, FixedRoutes, MemoryLedger, caller, route, serving, until
from tests.equipment.gateway_engine import Engine

KEY, OTHER, OPERATOR, NARROW, EXPIRED = "st-one", "st-other", "st-operator", "st-narrow", "st-expired"
CALLERS = {
    KEY: caller("one"),
    OTHER: caller("other"),
    OPERATOR: caller("operator", Role.OPERATOR),
    NARROW: caller("narrow", Role.APPLICATION, "elsewhere"),
    EXPIRED: caller("expired", expires_at=1.0),
}


@dataclass
class GatewayEnv:
    url: str
    engine: Engine
    candidate: Engine
    routes: FixedRoutes
    ledger: MemoryLedger

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=10)

    def follow(self, *routes: Any) -> None:
        self.routes.set(*routes)
        until(lambda: self.routes.reports and self.routes.reports[-1][1] == self.routes.snapshot.generation)

    def call(self, method: str, path: str, body: bytes | object = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=10)
        sent = {"authorization": f"Bearer {KEY}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, raw, sent)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        response_headers = {name.lower(): value for name, value in answer.getheaders()}
        return (
            answer.status,
            json.loads(text) if response_headers["content-type"] == "application/json" else text.decode(),
            response_headers,
        )

    def chat(self, content: str, **headers: str) -> tuple[int, Any, dict[str, str]]:
        return self.call("POST", "/v1/chat/completions", chat_body(content), **headers)


def chat_body(content: str, **fields: object) -> dict[str, object]:
    return {"model": HARBOUR, "messages": [{"role": "user", "content": content}], **fields}


@contextlib.contextmanager
def gateway_env() -> Iterator[GatewayEnv]:
    """Serve one endpoint of one stable version; a second engine is for a candidate."""
    engine, candidate, ledger = Engine(), Engine(), MemoryLedger()
    routes = FixedRoutes(CALLERS, route(engine.address))
    app = gateway(
        routes, ledger, InProcessAssignments(), SystemClock(), name="gw-1", refresh_s=0.02, heartbeat_s=0.05, ship_s=0.02, stall_s=1.0
    )
    try:
        with serving(app) as url:
            yield GatewayEnv(url, engine, candidate, routes, ledger)
    finally:
        engine.close()
        candidate.close()
