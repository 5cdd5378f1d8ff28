"""An engine made of a socket: answers like vLLM, or fails in the way that the last message asks for."""

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


class Engine:
    """Serves on a free port of the loopback, in a thread with a loop of its own."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, Any], bytes]] = []
        self.connections = 0
        self.gone = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0))
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
        wish = body["messages"][-1]["content"] if chat else body["prompt"]
        answer = _Answer(reader, writer, chat=chat, request_id=headers["x-request-id"])
        if wish.startswith("status "):
            await answer.status(int(wish.split()[1]))
        elif wish in ("hang", "stall"):
            await self._hang(answer, stream=body.get("stream", False))
        elif wish in ("close", "garbage", "error", "cut"):
            await answer.broken(wish, stream=body.get("stream", False))
            return False
        elif wish == "close after":
            await answer.whole("Ahoy")
            return False
        elif body.get("stream"):
            await answer.streamed([LOOP] if wish == "loop" else WORDS, usage=(body.get("stream_options") or {}).get("include_usage"))
        else:
            await answer.whole(LOOP if wish == "loop" else "".join(WORDS))
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

    async def whole(self, text: str) -> None:
        said = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        await self._json(200, {**self._head, "choices": [{"index": 0, **said, "finish_reason": "stop"}], "usage": USAGE})

    async def begin_stream(self) -> None:
        await self._write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n")

    async def _event(self, data: str) -> None:
        raw = f"data: {data}\n\n".encode()
        for part in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
            await self._write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    async def chunk(self, text: str, reason: str | None = None) -> None:
        said = {"delta": {"content": text}} if self._chat else {"text": text}
        document = {**self._head, "choices": [{"index": 0, **said, "finish_reason": reason}]}
        await self._event(json.dumps(document, separators=(",", ":"), ensure_ascii=False))

    async def streamed(self, words: list[str], *, usage: bool | None) -> None:
        await self.begin_stream()
        for word in words:
            await self.chunk(word)
        await self.chunk("", "stop")
        if usage:
            await self._event(json.dumps({**self._head, "choices": [], "usage": USAGE}))
        await self._event("[DONE]")
        await self._write(b"0\r\n\r\n")

    async def broken(self, wish: str, *, stream: bool) -> None:
        if wish == "close":
            return
        if wish == "garbage":
            await self._write(b"SMTP says hello\r\n\r\n")
            return
        if not stream:
            await self._write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
            return
        await self.begin_stream()
        await self.chunk("Ahoy")
        if wish == "error":
            await self._event(json.dumps({"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}))
            await self._event("[DONE]")
            await self._write(b"0\r\n\r\n")
