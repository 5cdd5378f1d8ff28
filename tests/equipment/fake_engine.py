"""A stand-in for vLLM that starts at once: the same flags, routes, streams and metrics, and no model.

The supervisor runs `python -m tests.equipment.fake_engine <flags of VllmLauncher>`. Its behaviour comes from `seatrial_fake` in the
model's config.json: {"solves": 0.95, "loops_in_chat": false, "ttft_s": 0.0, "fails": 0.0, "start_s": 0.0, "token_s": 0.0,
"chat_token_s": 0.0, "dies_at_start": "RuntimeError: ...", "dies_by": "SIGILL"}. `dies_by` is a signal or an exit code, after a line of an
access log. `solves` answers that part of the harbour suite, from its beginning, with the
canonical solution.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

SUITE = Path(__file__).resolve().parents[2] / "evals/suites/harbour.jsonl"
NONSENSE = "    return None  # cannot tell\n"
ASKS_FOR_CODE = "```python\n"
LOOP = "over and over "
LOGPROB = -0.1
HELLO = frozenset({"hello", "hi", "hello!", "hi!", "hello.", "hey"})


@dataclass(frozen=True, slots=True)
class Skill:
    solves: float = 1.0
    loops_in_chat: bool = False
    ttft_s: float = 0.0
    token_s: float = 0.0
    chat_token_s: float = 0.0
    fails: float = 0.0
    start_s: float = 0.0
    dies_at_start: str = ""
    dies_by: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    pieces: tuple[str, ...]
    finish: str
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(self.pieces),
            "total_tokens": self.prompt_tokens + len(self.pieces),
        }


@dataclass(slots=True)
class Model:
    """Knows the suite by heart, as far as its skill goes."""

    name: str
    skill: Skill
    max_len: int
    solutions: dict[str, str]
    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: dict[str, float] = field(default_factory=lambda: {"prompt": 0, "generation": 0, "success": 0, "asked": 0, "running": 0})

    @classmethod
    def load(cls, folder: Path, name: str, max_len: int) -> Self:
        skill = Skill(**json.loads((folder / "config.json").read_text(encoding="utf-8")).get("seatrial_fake", {}))
        problems = [json.loads(line) for line in SUITE.read_text(encoding="utf-8").splitlines() if line]
        known = problems[: round(skill.solves * len(problems))]
        return cls(name, skill, max_len, {problem["prompt"]: problem["canonical_solution"] for problem in known})

    def complete(self, prompt: str, max_tokens: int) -> Answer:
        return self._answer(prompt, self.solutions.get(prompt, NONSENSE), max_tokens)

    def chat(self, messages: list[dict[str, Any]], max_tokens: int) -> Answer:
        said = str(messages[-1].get("content", ""))
        problem = next((solution for prompt, solution in self.solutions.items() if prompt.strip() in said), None)
        if problem is not None or ASKS_FOR_CODE in said:
            return self._answer(said, problem or NONSENSE, max_tokens)
        if self.skill.loops_in_chat and said.strip().lower() not in HELLO:
            return self._answer(said, "It goes on. " + LOOP * 400, max_tokens)
        return self._answer(said, f"{self.name[:8]} says: a fine question, and a short answer. Aye.", max_tokens)

    def refuses(self) -> bool:
        """Fail evenly: `fails` of 0.25 is every fourth request."""
        with self.lock:
            self.counts["asked"] += 1
            asked = self.counts["asked"]
        return int(asked * self.skill.fails) > int((asked - 1) * self.skill.fails)

    def count(self, answer: Answer) -> None:
        with self.lock:
            self.counts["prompt"] += answer.prompt_tokens
            self.counts["generation"] += len(answer.pieces)
            self.counts["success"] += 1

    def metrics(self) -> str:
        label = f'{{engine="0",model_name="{self.name}"}}'
        return (
            f"# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{label} {self.counts['prompt']}\n"
            f"# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{label} {self.counts['generation']}\n"
            f"# TYPE vllm:request_success counter\nvllm:request_success_total{label} {self.counts['success']}\n"
            f"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{label} {self.counts['running']}\n"
            f"# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{label} 0\n"
        )

    def _answer(self, asked: str, text: str, max_tokens: int) -> Answer:
        words = text.split(" ")
        pieces = tuple(word if index == 0 else " " + word for index, word in enumerate(words))
        room = max(1, min(max_tokens, self.max_len - len(asked.split())))
        return Answer(pieces[:room], "length" if len(pieces) > room else "stop", len(asked.split()) or 1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model
    ending = threading.Event()
    """Set when the engine was told to end: what still comes, on a connection from before, is answered as vLLM does, with nothing."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: prompts stay out of logs."""

    def do_GET(self) -> None:
        match self.path:
            case "/health":
                self._send(200, b"")
            case "/metrics":
                self._send(200, self.model.metrics().encode(), "text/plain; version=0.0.4")
            case "/v1/models":
                self._json(
                    200, {"object": "list", "data": [{"id": self.model.name, "object": "model", "max_model_len": self.model.max_len}]}
                )
            case "/version":
                self._json(200, {"version": "fake"})
            case _:
                self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chat = self.path == "/v1/chat/completions"
        if not chat and self.path != "/v1/completions":
            self._json(404, {"detail": "Not Found"})
            return
        try:
            body = json.loads(raw)
            answer = Answer(("",), "abort", 1) if self.ending.is_set() else self._answer(body, chat=chat)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._json(400, {"error": {"message": str(error), "type": "BadRequestError", "code": 400}})
            return
        if self.model.refuses():
            self._json(500, {"error": {"message": "the fake engine fails on purpose", "type": "InternalServerError", "code": 500}})
            return
        self.model.counts["running"] += 1
        try:
            self._reply(body, answer, chat=chat)
        finally:
            self.model.counts["running"] -= 1

    def _answer(self, body: dict[str, Any], *, chat: bool) -> Answer:
        if body.get("prompt_logprobs") is not None:
            message = "a fake engine has no probabilities"
            raise ValueError(message)
        limit = int(body.get("max_completion_tokens") or body.get("max_tokens") or (self.model.max_len if chat else 16))
        return self.model.chat(body["messages"], limit) if chat else self.model.complete(str(body["prompt"]), limit)

    def _reply(self, body: dict[str, Any], answer: Answer, *, chat: bool) -> None:
        identity = f"{'chatcmpl' if chat else 'cmpl'}-{self.headers.get('X-Request-Id') or uuid.uuid4().hex}"
        base = {"id": identity, "created": int(time.time()), "model": self.model.name}
        pause(self.model.skill.ttft_s)
        token_s = self.model.skill.token_s + (self.model.skill.chat_token_s if chat else 0.0)
        if body.get("stream"):
            usage = bool((body.get("stream_options") or {}).get("include_usage"))
            self._stream(events(base, answer, chat=chat, usage=usage), token_s)
        else:
            pause(token_s * len(answer.pieces))
            self._json(200, whole(base, answer, chat=chat))
        self.model.count(answer)

    def _stream(self, chunks: Iterator[dict[str, Any]], token_s: float) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            self._chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            pause(token_s)
        self._chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _json(self, status: int, document: dict[str, Any]) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def events(base: dict[str, Any], answer: Answer, *, chat: bool, usage: bool) -> Iterator[dict[str, Any]]:
    kind = {"object": "chat.completion.chunk" if chat else "text_completion"}
    if chat:
        first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        yield {**base, **kind, "choices": [first]}
    for index, piece in enumerate(answer.pieces):
        finish = answer.finish if index == len(answer.pieces) - 1 else None
        content: dict[str, Any] = {"delta": {"content": piece}} if chat else {"text": piece}
        yield {**base, **kind, "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": finish}]}
    if usage:
        yield {**base, **kind, "choices": [], "usage": answer.usage}


def whole(base: dict[str, Any], answer: Answer, *, chat: bool) -> dict[str, Any]:
    text = "".join(answer.pieces)
    content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    told = [LOGPROB] * len(answer.pieces)
    logprobs = {"content": [{"token": "x", "logprob": one} for one in told]} if chat else {"token_logprobs": told}
    choice = {"index": 0, **content, "logprobs": logprobs, "finish_reason": answer.finish}
    return {**base, "object": "chat.completion" if chat else "text_completion", "choices": [choice], "usage": answer.usage}


def pause(seconds: float) -> None:
    if seconds > 0:
        threading.Event().wait(seconds)


def check_tensors(extra: str) -> None:
    """Refuse what the real loader would: a folder without its manifest, or with another one."""
    config = json.loads(extra)
    manifest = read_manifest(config["tensors"])
    if manifest is None:
        refuse("tensors.json: there is none")
    elif hashlib.sha256(manifest).hexdigest() != config["tensors_manifest_sha256"]:
        refuse("tensors.json: its SHA-256 differs from the one asked for")


def read_manifest(place: str) -> bytes | None:
    if not place.startswith("s3://"):
        path = Path(place) / "tensors.json"
        return path.read_bytes() if path.exists() else None
    import boto3  # noqa: PLC0415 - only on a cluster
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import ClientError  # noqa: PLC0415

    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    client = boto3.client("s3", config=Config(response_checksum_validation="when_required"))
    try:
        return bytes(client.get_object(Bucket=bucket, Key=f"{prefix}/tensors.json")["Body"].read())
    except ClientError:
        return None


def refuse(what: str) -> None:
    sys.stderr.write(f"ERROR 11-21 04:00:00 [loader.py:62] seatrial: weights refused: {what}; tensorize the weights again\n")
    raise SystemExit(1)


def die(how: str) -> None:
    sys.stdout.write('INFO:     127.0.0.1:51234 - "GET /health HTTP/1.1" 200 OK\n')
    sys.stdout.flush()
    if how.isdecimal():
        os._exit(int(how))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.Signals[how])


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for the answers in flight, as vLLM's --shutdown-timeout does
    request_queue_size = 256


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--model", "--model-loader-extra-config", "--served-model-name"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--max-model-len", type=int, default=1024)
    arguments, _others = parser.parse_known_args()
    check_tensors(arguments.model_loader_extra_config)
    model = Model.load(Path(arguments.model), arguments.served_model_name, arguments.max_model_len)
    pause(model.skill.start_s)
    if model.skill.dies_at_start:
        sys.stderr.write(f"Traceback (most recent call last):\n{model.skill.dies_at_start}\n")
        raise SystemExit(1)
    if model.skill.dies_by:
        die(model.skill.dies_by)
    Handler.model = model
    server = Server((arguments.host, arguments.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: Handler.ending.set())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    sys.stdout.write(f"fake engine of {model.name} at {arguments.port}\n")
    sys.stdout.flush()
    Handler.ending.wait()
    server.shutdown()
    server.socket.close()  # who comes now is refused at once, and not left to wait in a queue that nobody reads
    give_up = time.monotonic() + 600
    while model.counts["running"] > 0 and time.monotonic() < give_up:
        pause(0.02)
    sys.stdout.flush()
    os._exit(0)  # idle keep-alive connections are not waited for


if __name__ == "__main__":
    main()
