"""The engine is asked through its OpenAI API; what goes wrong becomes one of our errors."""

from __future__ import annotations

import json

import pytest

from core.benchmarks import Sampling
from core.errors import Fault, Refused, Transient
from core.ids import VersionId
from evals.engine_client import EngineClient
from tests.equipment.openai_server import Says, engine_that

VERSION = VersionId("b" * 64)
HELLO = [{"role": "user", "content": "Hello"}]


def test_completion_is_asked_raw_and_read_whole() -> None:
    with engine_that(lambda _path, _body: Says("a b c", finish="length")) as engine, EngineClient(engine.address, VERSION) as client:
        answer = client.complete("def f", max_tokens=5, stop=["\ndef "])
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens, answer.finish_reason) == ("a b c", 7, 3, "length")
    assert 0 < answer.ttft_s <= answer.seconds
    ((path, body),) = engine.asked
    assert path == "/v1/completions"
    assert (body["model"], body["prompt"], body["max_tokens"], body["stop"]) == (VERSION, "def f", 5, ["\ndef "])
    assert (body["temperature"], body["stream"], body["stream_options"]) == (0.0, True, {"include_usage": True})


def test_chat_goes_through_the_template() -> None:
    with engine_that(lambda _path, _body: Says("good day")) as engine, EngineClient(engine.address, VERSION) as client:
        assert client.chat(HELLO, max_tokens=5, temperature=0.7, seed=3).text == "good day"
    ((path, body),) = engine.asked
    assert path == "/v1/chat/completions"
    assert (body["messages"], body["temperature"], body["seed"]) == (HELLO, 0.7, 3)


def test_empty_answer_takes_its_time_to_the_end_as_first_token() -> None:
    with engine_that(lambda _path, _body: Says("", tokens=1)) as engine, EngineClient(engine.address, VERSION) as client:
        answer = client.complete("x", max_tokens=5)
    assert answer.text == ""
    assert answer.ttft_s == answer.seconds


@pytest.mark.parametrize(
    ("says", "error"),
    [
        (Says("busy", status=429), Transient),
        (Says("down", status=503), Transient),
        (Says("boom", status=500), Transient),
        (Says("late", status=408), Transient),
        (Says("too long", status=400), Refused),
        (Says("too large", status=413), Refused),
        (Says("no such field", status=422), Refused),
        (Says("a key, please", status=401), Fault),
        (Says("not you", status=403), Fault),
        (Says("elsewhere", status=302), Fault),
        (Says("no such model", status=404), Fault),
        (Says("half an", cut=True), Transient),
        (Says(raw=b"data: {broken\n\n"), Transient),
        (Says(raw=b'data: {"error": {"message": "died"}}\n\ndata: [DONE]\n\n'), Transient),
        (Says(raw=b""), Transient),
    ],
)
def test_what_goes_wrong_becomes_one_of_our_errors(says: Says, error: type[Exception]) -> None:
    with (
        engine_that(lambda _path, _body: says) as engine,
        EngineClient(engine.address, VERSION) as client,
        pytest.raises(error) as raised,
    ):
        client.complete("x", max_tokens=5)
    assert type(raised.value) is error


def test_engine_that_is_away_is_transient() -> None:
    with engine_that(lambda _path, _body: Says()) as engine:
        pass
    with EngineClient(engine.address, VERSION) as client, pytest.raises(Transient, match="does not answer"):
        client.complete("x", max_tokens=5)


def test_message_says_what_the_engine_said_and_not_what_was_asked() -> None:
    with (
        engine_that(lambda _path, _body: Says("too long", status=400)) as engine,
        EngineClient(engine.address, VERSION) as client,
        pytest.raises(Refused, match="answers 400: too long") as refusal,
    ):
        client.complete("a secret prompt", max_tokens=5)
    assert "secret" not in str(refusal.value)


WARM = Sampling(0.8, 0.5, 0.9, 32)


def test_whole_answer_brings_its_mean_log_probability_and_sends_the_sampling() -> None:
    with engine_that(lambda _path, _body: Says("a b", logprob=-0.25)) as engine, EngineClient(engine.address, VERSION) as client:
        raw = client.answer("def f", WARM, stops=("\ndef ",), seed=2**52)
        chat = client.answer(HELLO, WARM, seed=1)
    assert (raw.text, raw.completion_tokens, raw.finish_reason, raw.mean_logprob) == ("a b", 2, "stop", -0.25)
    assert (chat.text, chat.mean_logprob) == ("a b", -0.25)
    (path, body), (chat_path, chat_body) = engine.asked
    assert (path, chat_path) == ("/v1/completions", "/v1/chat/completions")
    assert (body["temperature"], body["frequency_penalty"], body["top_p"], body["max_tokens"]) == (0.8, 0.5, 0.9, 32)
    assert (body["seed"], body["stop"], body["logprobs"], "stream" in body) == (2**52, ["\ndef "], 0, False)
    assert (chat_body["messages"], chat_body["logprobs"], "stop" in chat_body) == (HELLO, True, False)


def test_engine_that_tells_no_probability_gives_none() -> None:
    with engine_that(lambda _path, _body: Says("a", logprob=None)) as engine, EngineClient(engine.address, VERSION) as client:
        assert client.answer("x", WARM).mean_logprob is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"index": 0}]}', b'{"choices": ["x"]}'])
def test_whole_answer_that_cannot_be_read_is_transient(raw: bytes) -> None:
    with (
        engine_that(lambda _path, _body: Says(raw=raw)) as engine,
        EngineClient(engine.address, VERSION) as client,
        pytest.raises(Transient),
    ):
        client.answer("x", WARM)


def test_the_retry_time_of_a_busy_engine_is_passed_on() -> None:
    with (
        engine_that(lambda _path, _body: Says("busy", status=429, retry_after="7")) as engine,
        EngineClient(engine.address, VERSION) as client,
        pytest.raises(Transient) as raised,
    ):
        client.answer("x", WARM)
    assert raised.value.retry_after_s == 7


def test_given_text_is_scored_token_by_token_without_the_one_that_had_to_be_generated() -> None:
    told = {
        "text_offset": [0, 2, 3],
        "token_logprobs": [None, -0.5, -9.0],
        "top_logprobs": [None, {"b": -0.5}, {"z": -0.1, "c": -9.0}],
        "tokens": ["a ", "b", "c"],
    }
    raw = json.dumps({"choices": [{"index": 0, "text": "a bc", "finish_reason": "length", "logprobs": told}]}).encode()
    with engine_that(lambda _path, _body: Says(raw=raw)) as engine, EngineClient(engine.address, VERSION) as client:
        scored = client.score("a b")
    assert (scored.offsets, scored.logprobs, scored.greedy) == ((0, 2), (None, -0.5), (False, True))
    assert engine.asked[0][1]["echo"] is True
