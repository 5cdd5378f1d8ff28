"""Talking to an endpoint and voting, against a small gateway that speaks OpenAI's stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from seatrial import Client, NotFound, Unavailable
from seatrial.cli import main
from tests.equipment.control_env import served


@dataclass
class Gateway:
    """What it was asked, and what it answers: `broken` ends streams with an error event."""

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    votes: list[dict[str, Any]] = field(default_factory=list)
    broken: bool = False

    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], response_model=None)
        app.add_api_route("/v1/feedback", self.vote, methods=["POST"], response_model=None)
        return app

    async def chat(self, request: Request) -> Response:
        ask = await request.json()
        self.asked.append(ask)
        if ask["model"] == "none":
            return JSONResponse({"error": {"message": "there is no endpoint none", "code": "no_endpoint"}}, 404)
        if not ask["stream"]:
            message = {"message": {"content": "whole"}, "finish_reason": "stop"}
            return JSONResponse({"id": "chatcmpl-1", "choices": [message]})
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def vote(self, request: Request) -> Response:
        self.votes.append(await request.json())
        return JSONResponse({"object": "feedback"})

    def _events(self) -> Iterator[str]:
        for text, finish in (("he\x1b[31mll", None), ("o", "length")):
            yield self._event({"id": "chatcmpl-7", "choices": [{"delta": {"content": text}, "finish_reason": finish}]})
            if self.broken:
                yield self._event({"error": {"message": "the engine went away"}})
                return
        yield self._event({"id": "chatcmpl-7", "choices": []})
        yield "data: [DONE]\n\n"

    def _event(self, document: dict[str, Any]) -> str:
        return f"data: {json.dumps(document)}\n\n"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    gateway = Gateway()
    with served(gateway.app()) as url:
        gateway.url = url
        monkeypatch.setenv("SEATRIAL_GATEWAY_URL", url)
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Client]:
    with Client(gateway.url, "st-test") as client:
        yield client


def _run(gateway: Gateway, *arguments: str, typed: str | None = None) -> Any:
    return CliRunner().invoke(main, ["--url", gateway.url, "--key", "st-test", *arguments], input=typed)


def test_an_answer_streams_with_the_id_to_vote_on(client: Client) -> None:
    pieces = list(client.chat("chat", [{"role": "user", "content": "hi"}], stream=True))
    assert [piece.text for piece in pieces] == ["he\x1b[31mll", "o"]
    assert {piece.completion for piece in pieces} == {"chatcmpl-7"}
    assert pieces[-1].finish_reason == "length"


def test_an_answer_can_come_whole(client: Client, gateway: Gateway) -> None:
    assert client.chat("chat", [{"role": "user", "content": "hi"}], max_tokens=5).text == "whole"
    assert gateway.asked[0]["max_tokens"] == 5


def test_a_stream_that_breaks_off_is_an_error_and_no_short_answer(client: Client, gateway: Gateway) -> None:
    gateway.broken = True
    with pytest.raises(Unavailable, match="the engine went away"):
        list(client.chat("chat", [{"role": "user", "content": "hi"}], stream=True))


def test_an_endpoint_that_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(NotFound, match="no endpoint none"):
        list(client.chat("none", [], stream=True))


def test_chat_shows_the_answer_without_escape_sequences_and_how_to_vote(gateway: Gateway) -> None:
    done = _run(gateway, "chat", "chat", "hi")
    assert done.exit_code == 0
    assert done.stdout == "hello\n"
    assert "cut at the token limit" in done.stderr
    assert "seatrial feedback give chatcmpl-7" in done.stderr


def test_a_conversation_keeps_what_was_said_and_takes_votes(gateway: Gateway) -> None:
    done = _run(gateway, "chat", "chat", typed="first\n/up\nsecond\n")
    assert done.exit_code == 0
    assert [message["role"] for message in gateway.asked[1]["messages"]] == ["user", "assistant", "user"]
    assert gateway.votes == [{"completion_id": "chatcmpl-7", "thumb": "up", "comment": ""}]


def test_a_vote_with_a_comment_is_given(gateway: Gateway) -> None:
    done = _run(gateway, "feedback", "give", "chatcmpl-7", "--down", "--comment", "it loops", "--json")
    assert json.loads(done.stdout)["thumb"] == "down"
    assert gateway.votes == [{"completion_id": "chatcmpl-7", "thumb": "down", "comment": "it loops"}]
