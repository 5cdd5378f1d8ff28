"""A double of an engine on a socket: it answers like vLLM, or fails in the way that the last message names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import Any

NAME = "the-version-that-vllm-serves"
USAGE = {"prompt_tokens": 7, "completion_tokens": 40, "total_tokens": 47}
LOOP = "and again " * 30
WORDS = ["Ahoy", ", ", "harbour", " größer", " ⚓"]
PLAIN = "Each of these words is said once, so nothing in this answer comes back, however closely anybody would look at its very end."
MEANS = (-1.0, -0.5, -0.1, -0.7)
"""Mean log-probabilities of the choices of one answer, in turn: the third is the likeliest."""


MESSAGES: dict[str, dict[str, Any]] = {
    "looping reasoning": {"content": None, "reasoning_content": LOOP},
    "looping call": {"content": None, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": LOOP}}]},
    "reasoning and short answer": {"content": "ha ha ha ha ha", "reasoning_content": PLAIN},
}
"""Whole chat answers that are not just text."""


BROKEN = frozenset({"close", "garbage", "error", "cut", "abort", "abort half way"})


class Engine:
    """Serves on the loopback, in a thread with a loop of its own; on a free port unless one is given."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self.requests: list[tuple[dict[str, str], dict[str, Any], bytes]] = []
        self.connections = 0
        self.counted = [0, 0]
        """Tokens read and written in whole answers, as `vllm:prompt_tokens_total` and `vllm:generation_tokens_total` count them."""
        self.gone = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", self._port))
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            with contextlib.suppress(RuntimeError):
                writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        raw = await reader.readexactly(int(headers["content-length"]))
        body = json.loads(raw)
        self.requests.append((headers, body, raw))
        chat = "messages" in body
        scenario = body["messages"][-1]["content"] if chat else body["prompt"]
        scenario = scenario if isinstance(scenario, str) else ""
        said = {"second loops": {1: LOOP}, "likeliest loops": {2: LOOP}, "others loop": {0: LOOP, 1: LOOP, 3: LOOP}}
        answer = _Answer(reader, writer, chat=chat, request_id=headers["x-request-id"])
        if scenario.startswith("status "):
            await answer.status(int(scenario.split()[1]))
        elif scenario in ("hang", "stall"):
            await self._hang(answer, stream=body.get("stream", False))
        elif scenario in BROKEN or (scenario == "abort once" and len(self.requests) == 1):
            await answer.broken(scenario, stream=body.get("stream", False))
            return False
        elif scenario in MESSAGES and not body.get("stream"):
            await answer.message(MESSAGES[scenario])
        elif scenario == "close after":
            await answer.whole("Ahoy")
            return False
        elif body.get("stream"):
            usage = (body.get("stream_options") or {}).get("include_usage")
            await answer.streamed([LOOP] if scenario == "loop" else WORDS, said.get(scenario), usage=usage, count=body.get("n") or 1)
        elif (body.get("n") or 1) > 1 and (scenario == "one only" or body.get("temperature") == 0):
            await answer.status(400)
        else:
            self.counted = [self.counted[0] + 7, self.counted[1] + 40 * (body.get("n") or 1)]  # before anybody can look
            await answer.whole(LOOP if scenario == "loop" else "".join(WORDS), body, said.get(scenario))
        return True

    async def _hang(self, answer: _Answer, *, stream: bool) -> None:
        if stream:
            await answer.begin_stream()
            await answer.chunk("Ahoy")
        await answer.reader.readexactly(1)  # until the gateway closes


class _Answer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, chat: bool, request_id: str) -> None:
        self.reader = reader
        self._writer = writer
        self._chat = chat
        prefix, kind = ("chatcmpl-", "chat.completion") if chat else ("cmpl-", "text_completion")
        self._head = {"id": prefix + request_id, "object": kind, "created": 1, "model": NAME}

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _json(self, status: int, document: object) -> None:
        body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        await self._write(f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    async def status(self, status: int) -> None:
        await self._json(
            status, {"error": {"message": f"engine says {status}", "type": "BadRequestError", "param": "top_p", "code": status}}
        )

    async def whole(self, text: str, body: dict[str, Any] | None = None, others: dict[int, str] | None = None) -> None:
        """Answer with as many choices as `n` says. With `others`, each says what they say, or something without a loop."""
        asked = body or {}
        count, choices = asked.get("n") or 1, []
        for index in range(count):
            here = text if others is None else others.get(index, PLAIN)
            said = {"message": {"role": "assistant", "content": here}} if self._chat else {"text": here}
            reason = "length" if here == LOOP else "stop"
            choices.append({"index": index, **said, "logprobs": self._logprobs(index, asked.get("logprobs")), "finish_reason": reason})
        usage = {**USAGE, "completion_tokens": 40 * count, "total_tokens": 7 + 40 * count}
        await self._json(200, {**self._head, "choices": choices, "usage": usage})

    def _logprobs(self, index: int, asked: object) -> dict[str, Any] | None:
        if asked is None or asked is False:
            return None
        mean = MEANS[index % len(MEANS)]
        if not self._chat:
            return {"tokens": ["a", "b"], "token_logprobs": [mean - 0.25, mean + 0.25], "top_logprobs": None, "text_offset": [0, 1]}
        return {"content": [{"token": "a", "logprob": mean + part, "bytes": None, "top_logprobs": []} for part in (-0.25, 0.25)]}

    async def message(self, message: dict[str, Any]) -> None:
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
        await self._json(200, {**self._head, "choices": [choice], "usage": USAGE})

    async def begin_stream(self) -> None:
        await self._write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n")

    async def _event(self, data: str) -> None:
        raw = f"data: {data}\n\n".encode()
        for part in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
            await self._write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    async def chunk(self, text: str, reason: str | None = None, index: int = 0) -> None:
        said = {"delta": {"content": text}} if self._chat else {"text": text}
        document = {**self._head, "choices": [{"index": index, **said, "finish_reason": reason}]}
        await self._event(json.dumps(document, separators=(",", ":"), ensure_ascii=False))

    async def streamed(self, words: list[str], others: dict[int, str] | None = None, *, usage: bool | None, count: int = 1) -> None:
        await self.begin_stream()
        for index in range(count):
            for word in words if others is None else [others.get(index, PLAIN)]:
                await self.chunk(word, index=index)
        for index in range(count):
            await self.chunk("", "stop", index)
        if usage:
            await self._event(json.dumps({**self._head, "choices": [], "usage": {**USAGE, "completion_tokens": 40 * count}}))
        await self._event("[DONE]")
        await self._write(b"0\r\n\r\n")

    async def _aborted(self, text: str, *, stream: bool) -> None:
        """End as vLLM does while it shuts down: status 200, the output so far, and this finish reason."""
        if stream:
            await self.begin_stream()
            await self.chunk(text)
            await self.chunk("", "abort")
            await self._event("[DONE]")
            await self._write(b"0\r\n\r\n")
            return
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        await self._json(200, {**self._head, "choices": [{"index": 0, **said, "finish_reason": "abort"}], "usage": USAGE})

    async def broken(self, scenario: str, *, stream: bool) -> None:
        if scenario == "close":
            return
        if scenario in ("abort", "abort once", "abort half way"):
            await self._aborted("Ahoy" if scenario == "abort half way" else "", stream=stream)
            return
        if scenario == "garbage":
            await self._write(b"SMTP says hello\r\n\r\n")
            return
        if not stream:
            await self._write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
            return
        await self.begin_stream()
        await self.chunk("Ahoy")
        if scenario == "error":
            await self._event(json.dumps({"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}))
            await self._event("[DONE]")
            await self._write(b"0\r\n\r\n")
