"""A hub of our own: speaks the Hugging Face hub's protocol over HTTP, as huggingface_hub 2.4 uses it, with faults to order.

Folders `ROOT/ORG/MODEL` are its models. Large files and safetensors are in its LFS, which is a second address (another port), as
the real hub's is; the others are redirected to a path of the same address, as there. In a test: `with HubServer(root) as hub:
hub.fail("ORG/MODEL/model.safetensors", "cut", after=1000)`. As a process: `python -m tests.equipment.hub_server --root DIR
[--port 0]` prints its URL; faults are then ordered over HTTP:

    POST /__control__/faults    {"path": "ORG/MODEL/*", "kind": "status", "status": 429, "retry_after": "1", "times": 2}
    POST /__control__/private   {"repo": "ORG/MODEL"}          POST /__control__/gated {"repo": "ORG/MODEL", "tokens": ["hf_x"]}
    POST /__control__/down      {"seconds": 5}                 GET  /__control__/counters
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import hashlib
import json
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from registry.hub.card import front_matter

_LFS_BYTES = 10_000_000
_CHUNK = 65_536


@dataclass
class Failure:
    """What happens to the next `times` requests for paths like `path` (`api:ORG/MODEL` is the listing)."""

    path: str
    kind: str
    """status | cut (connection reset) | short (announced whole, ended early) | truncated (announced short) | wrong | stall | nonsense"""
    times: int = 1
    after: int = 0
    """Bytes that are sent before it happens."""
    status: int = 500
    retry_after: str | None = None


@dataclass(frozen=True)
class Blob:
    """One file of one commit."""

    name: str
    path: Path
    size: int
    sha256: str
    git_oid: str

    @property
    def is_lfs(self) -> bool:
        return self.size > _LFS_BYTES or self.name.endswith(".safetensors")

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid


class HubServer:
    """Serves while its context lasts. `requests` counts per (method, key), `sent` counts content bytes per file."""

    def __init__(self, root: Path, port: int = 0, host: str = "127.0.0.1") -> None:
        self.root = root
        self._host = host
        self.requests: Counter[tuple[str, str]] = Counter()
        self.sent: Counter[str] = Counter()
        self.authorised: list[tuple[str, str]] = []
        """(key, Authorization header) of every request that carried one."""
        self.gated: dict[str, set[str]] = {}
        self.private: set[str] = set()
        self.released = threading.Event()
        """Set to let stalled answers end."""
        self._failures: list[Failure] = []
        self._lock = threading.Lock()
        self._blobs: dict[tuple[str, int, int], tuple[str, str]] = {}
        self._servers: list[ThreadingHTTPServer] = []
        self._ports = (port, 0)

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._ports[0]}"

    @property
    def cdn_url(self) -> str:
        return f"http://{self._host}:{self._ports[1]}"

    def __enter__(self) -> HubServer:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.down()

    def up(self) -> None:
        """Listen, on the same ports as before."""
        self._servers = [_Listener((self._host, port), _handler(self)) for port in self._ports]
        self._ports = (self._servers[0].server_port, self._servers[1].server_port)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Close the listening sockets: the hub is away."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    def fail(self, path: str, kind: str, **options: Any) -> None:
        """Order a failure."""
        with self._lock:
            self._failures.append(Failure(path, kind, **options))

    def gate(self, repo: str, *tokens: str) -> None:
        """Let only these tokens read the files of `repo`."""
        self.gated[repo] = set(tokens)

    def counters(self) -> dict[str, Any]:
        return {"requests": {f"{method} {key}": n for (method, key), n in self.requests.items()}, "sent": dict(self.sent)}

    def failure_of(self, key: str) -> Failure | None:
        with self._lock:
            for failure in self._failures:
                if failure.times > 0 and fnmatch.fnmatch(key, failure.path):
                    failure.times -= 1
                    return failure
        return None

    def count(self, method: str, key: str, authorisation: str | None) -> None:
        with self._lock:
            self.requests[method, key] += 1
            if authorisation:
                self.authorised.append((key, authorisation))

    def count_sent(self, key: str, size: int) -> None:
        with self._lock:
            self.sent[key] += size

    def blobs(self, repo: str) -> dict[str, Blob] | None:
        folder = self.root / repo
        if repo.count("/") != 1 or ".." in repo or not folder.is_dir():
            return None
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {blob.name: blob for blob in (self._blob(path, path.relative_to(folder).as_posix()) for path in paths)}

    def _blob(self, path: Path, name: str) -> Blob:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._blobs:
            content = path.read_bytes()
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content)
            self._blobs[key] = (hashlib.sha256(content).hexdigest(), git.hexdigest())
        return Blob(name, path, status.st_size, *self._blobs[key])


def commit_of(blobs: dict[str, Blob]) -> str:
    """Return the commit of a listing, 40 hexadecimal digits as git's are."""
    return hashlib.sha1("".join(f"{blob.name}\0{blob.git_oid}\n" for blob in blobs.values()).encode()).hexdigest()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a stalled answer ends when its client goes

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close the listening socket and every connection that a client keeps alive."""
        super().server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(hub: HubServer) -> type[_Handler]:
    return type("Handler", (_Handler,), {"hub": hub})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    failure: Failure | None = None

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or "{}")
        match self.path.removeprefix("/__control__/"):
            case "faults":
                self.hub.fail(given.pop("path"), given.pop("kind"), **given)
            case "gated":
                self.hub.gate(given["repo"], *given.get("tokens", ()))
            case "private":
                self.hub.private.add(given["repo"])
            case "down":
                threading.Thread(target=_be_away, args=(self.hub, float(given["seconds"])), daemon=True).start()
            case _:
                return self._error(404, "EntryNotFound", "no such control")
        return self._json({})

    def _answer(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        match parts:
            case ["__control__", "counters"]:
                self._json(self.hub.counters())
            case ["api", "models", org, model, "revision", revision]:
                self._listing(f"{org}/{model}", revision)
            case ["api", "models", org, model]:
                self._listing(f"{org}/{model}", "main")
            case [org, model, "resolve", revision, *path]:
                self._file(f"{org}/{model}", revision, "/".join(path))
            case ["api", "resolve-cache", "models", org, model, commit, *path]:
                self._file(f"{org}/{model}", commit, "/".join(path), cached=True)
            case ["lfs", org, model, *path]:
                self._lfs(f"{org}/{model}", "/".join(path))
            case _:
                self._error(404, "RepoNotFound", "Repository not found")

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _begins(self, key: str) -> bool:
        """Count the request; answer it with the failure that was ordered, if that is a status."""
        self.hub.count(self.command, key, self.headers.get("Authorization"))
        self.failure = self.hub.failure_of(key) if self.command == "GET" else None
        if self.failure is None or self.failure.kind not in {"status", "nonsense"}:
            return False
        if self.failure.kind == "nonsense":
            self._send(200, b"<html>Please log in to this network</html>", {"Content-Type": "text/html"})
        else:
            wait = {"Retry-After": self.failure.retry_after} if self.failure.retry_after else {}
            self._send(self.failure.status, b"", wait)
        return True

    def _blobs(self, repo: str, revision: str) -> dict[str, Blob] | None:
        blobs = self.hub.blobs(repo)
        if blobs is None or (repo in self.hub.private and not self._token):
            self._error(404 if self._token else 401, "RepoNotFound", "Repository not found")
            return None
        if revision not in {"main", commit_of(blobs)}:
            self._error(404, "RevisionNotFound", "Invalid rev id")
            return None
        return blobs

    def _listing(self, repo: str, revision: str) -> None:
        if self._begins(f"api:{repo}") or (blobs := self._blobs(repo, revision)) is None:
            return
        siblings = [
            {"rfilename": blob.name, "size": blob.size, "blobId": blob.git_oid}
            | ({"lfs": {"size": blob.size, "sha256": blob.sha256, "pointerSize": 134}} if blob.is_lfs else {})
            for blob in blobs.values()
        ]
        gated = "auto" if repo in self.hub.gated else False
        card = dict(front_matter(self.hub.root / repo / "README.md"))
        self._json({"id": repo, "sha": commit_of(blobs), "gated": gated, "private": False, "cardData": card, "siblings": siblings})

    def _file(self, repo: str, revision: str, name: str, *, cached: bool = False) -> None:
        blobs = self._blobs(repo, revision)
        if blobs is None:
            return
        if repo in self.hub.gated and self._token not in self.hub.gated[repo]:
            self._error(403 if self._token else 401, "GatedRepo", "Access to this model is restricted")
        elif name not in blobs:
            self._error(404, "EntryNotFound", "Entry not found")
        elif not blobs[name].is_lfs and not cached:
            location = f"/api/resolve-cache/models/{repo}/{commit_of(blobs)}/{quote(name)}"
            self._send(307, b"", {"Location": location, "X-Repo-Commit": commit_of(blobs), "ETag": f'"{blobs[name].etag}"'})
        elif not blobs[name].is_lfs:
            if not self._begins(f"{repo}/{name}"):
                self._content(f"{repo}/{name}", blobs[name], {"X-Repo-Commit": commit_of(blobs)})
        else:
            self.hub.count(self.command, f"{repo}/{name}", self.headers.get("Authorization"))
            location = f"{self.hub.cdn_url}/lfs/{repo}/{name}"
            linked = {"X-Linked-Etag": f'"{blobs[name].sha256}"', "X-Linked-Size": str(blobs[name].size)}
            self._send(302, b"", {"Location": location, "X-Repo-Commit": commit_of(blobs)} | linked)

    def _lfs(self, repo: str, name: str) -> None:
        blob = (self.hub.blobs(repo) or {}).get(name)
        if blob is None:
            self._error(404, "EntryNotFound", "Entry not found")
        elif not self._begins(f"{repo}/{name}"):
            self.hub.count(self.command, f"lfs:{repo}/{name}", self.headers.get("Authorization"))
            self._content(f"{repo}/{name}", blob, {})

    def _content(self, key: str, blob: Blob, headers: dict[str, str]) -> None:
        content, status = blob.path.read_bytes(), 200
        if self.failure and self.failure.kind == "wrong":
            content = content[: self.failure.after] + bytes(byte ^ 0xFF for byte in content[self.failure.after :])
        if self.failure and self.failure.kind == "truncated":
            content = content[: self.failure.after]
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and asked.endswith("-"):
            start = int(asked[6:-1])
            if start >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            content, status = content[start:], 206
        self._send(status, content, headers | {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}, key)

    def _send(self, status: int, content: bytes, headers: dict[str, str], key: str = "") -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        ending = self.failure if self.failure and self.failure.kind in {"cut", "short", "stall"} else None
        for chunk in _chunks(content[: ending.after] if ending else content):
            self.wfile.write(chunk)
            self.hub.count_sent(key, len(chunk))
        if ending:
            self._end(ending)

    def _end(self, failure: Failure) -> None:
        self.close_connection = True
        self.wfile.flush()
        if failure.kind == "stall":
            self.hub.released.wait(30)
        elif failure.kind == "cut":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _json(self, document: dict[str, Any]) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"})


def _chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), _CHUNK):
        yield content[start : start + _CHUNK]


def _be_away(hub: HubServer, seconds: float) -> None:
    hub.down()
    threading.Event().wait(seconds)
    hub.up()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A hub with faults to order, for tests.")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds ORG/MODEL folders")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    with HubServer(given.root, given.port) as hub, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
