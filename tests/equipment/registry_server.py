"""An image registry in memory, as much of its HTTP protocol as pushing and pulling take."""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class RegistryServer:
    """`http://127.0.0.1:PORT/v2/`; `manifests` and `blobs` are what it holds, by digest (manifests by tag too)."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        handler = type("Handler", (_Handler,), {"registry": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: RegistryServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind, name = self._asked()
        if kind == "manifests" and name in self.registry.manifests:
            media, body = self.registry.manifests[name]
            self._answer(200, body, {"Content-Type": media, "Docker-Content-Digest": _digest(body)})
        elif kind == "blobs" and name in self.registry.blobs:
            self._answer(200, self.registry.blobs[name])
        else:
            self._answer(200 if self.path == "/v2/" else 404)

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def do_POST(self) -> None:
        self._body()
        self._answer(202, headers={"Location": f"{self.path.rstrip('/')}/{uuid.uuid4()}"})

    def do_PATCH(self) -> None:
        self.registry.blobs[self.path] = body = self._body()
        self._answer(202, headers={"Location": self.path, "Range": f"0-{len(body) - 1}"})

    def do_PUT(self) -> None:
        kind, name = self._asked()
        body = self._body()
        if kind == "manifests":
            self.registry.manifests[name] = self.registry.manifests[_digest(body)] = (self.headers["Content-Type"], body)
        else:
            body = body or self.registry.blobs.pop(self.path.partition("?")[0])
            self.registry.blobs[_digest(body)] = body
        self._answer(201, headers={"Docker-Content-Digest": _digest(body)})

    def _asked(self) -> tuple[str, str]:
        found = re.fullmatch(r"/v2/.+/(manifests|blobs)/([^/?]+)", self.path)
        return (found[1], found[2]) if found else ("", "")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
