"""A small engine for tests of the trials: OpenAI's API over HTTP on loopback, every answer scripted by a function."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Says:
    """One scripted answer. `raw` replaces the whole event stream; `cut` ends it without finish and [DONE]."""

    text: str = ""
    status: int = 200
    tokens: int | None = None
    finish: str = "stop"
    raw: bytes | None = None
    cut: bool = False
    logprob: float | None = -0.5
    retry_after: str = ""
    default_limit: int | None = None
    """Tokens after which an answer is cut when the request sets no `max_tokens`, as generation_config.json can make vLLM do."""


_MOST_STOPS = 4
"""As vLLM 0.32."""
Script = Callable[[str, dict[str, Any]], Says]


@dataclass(slots=True)
class Engine:
    address: str
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@contextmanager
def engine_that(script: Script) -> Iterator[Engine]:
    """Serve until the block ends; `asked` holds every request's path and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

        def do_GET(self) -> None:
            says = script(self.path, {})
            self.send_response(says.status)
            self.end_headers()
            self.wfile.write(says.raw or b"")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            engine.asked.append((self.path, body))
            says = script(self.path, body)
            if len(body.get("stop") or ()) > _MOST_STOPS:
                says = Says("stop: List should have at most 4 items", status=400)
            says = cut_by_default(says, body)
            self.send_response(says.status)
            if says.retry_after:
                self.send_header("Retry-After", says.retry_after)
            self.end_headers()
            if says.status == 200:
                form = stream if body.get("stream") else whole
                self.wfile.write(says.raw if says.raw is not None else form(says, chat="chat" in self.path))
            else:
                self.wfile.write(json.dumps({"error": {"message": says.text}}).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    engine = Engine(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cut_by_default(says: Says, body: dict[str, Any]) -> Says:
    words = says.text.split(" ")
    if says.default_limit is None or "max_tokens" in body or len(words) <= says.default_limit:
        return says
    return replace(says, text=" ".join(words[: says.default_limit]), finish="length")


def stream(says: Says, *, chat: bool) -> bytes:
    """Return an answer as vLLM streams it: a role event first (chat), word by word, then the usage alone, then [DONE]."""
    words = says.text.split(" ")
    pieces = [word if number == 0 else " " + word for number, word in enumerate(words)]
    events: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}] if chat else []
    for number, piece in enumerate(pieces):
        content: dict[str, Any] = {"delta": {"content": piece}} if chat else {"text": piece}
        finish = says.finish if number == len(pieces) - 1 and not says.cut else None
        events.append({"choices": [{"index": 0, **content, "finish_reason": finish}]})
    tokens = len(pieces) if says.tokens is None else says.tokens
    events.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}})
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return body if says.cut else body + b"data: [DONE]\n\n"


def whole(says: Says, *, chat: bool) -> bytes:
    """Return an answer in one piece, with the log-probabilities of its tokens."""
    tokens = len(says.text.split(" ")) if says.tokens is None else says.tokens
    told = None if says.logprob is None else [says.logprob] * tokens
    choice: dict[str, Any] = {"index": 0, "finish_reason": says.finish}
    if chat:
        choice["message"] = {"role": "assistant", "content": says.text}
        choice["logprobs"] = told and {"content": [{"token": "x", "logprob": one} for one in told]}
    else:
        choice["text"] = says.text
        choice["logprobs"] = told and {"token_logprobs": told, "tokens": ["x"] * tokens}
    usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    return body[: len(body) // 2] if says.cut else body
