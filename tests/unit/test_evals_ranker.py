"""A second model ranks through an OpenAI-compatible endpoint; what goes wrong becomes one of our errors."""

import json

import pytest

from core.errors import Fault, Refused, SeatrialError, Transient
from evals.ranker import HttpRanker
from tests.equipment.openai_server import Says, engine_that


class Instant:
    """A clock on which waiting takes no time."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)


def replies(text: str) -> Says:
    return Says(raw=json.dumps({"choices": [{"message": {"content": text}}]}).encode())


@pytest.mark.parametrize("text", ["2", " 2.", "Program 2 is correct", "**2**"])
def test_the_number_in_its_reply_is_the_choice(text: str):
    with engine_that(lambda _path, _body: replies(text)) as engine, HttpRanker(f"{engine.address}/v1", "judge", "k") as ranker:
        assert ranker.rank("def f(): ...", ["a", "b"]) == 1
    ((path, body),) = engine.asked
    assert path == "/v1/chat/completions"
    assert (body["model"], body["temperature"]) == ("judge", 0)
    assert "Program 2:\nb" in body["messages"][1]["content"]


@pytest.mark.parametrize("text", ["", "none", "0", "3", "99999999999999999999"])
def test_a_reply_that_names_no_candidate_is_refused(text: str):
    with (
        engine_that(lambda _path, _body: replies(text)) as engine,
        HttpRanker(f"{engine.address}/v1", "judge") as ranker,
        pytest.raises(Refused, match="names none of 2 programs"),
    ):
        ranker.rank("p", ["a", "b"])


@pytest.mark.parametrize(("status", "error"), [(400, Refused), (422, Refused), (401, Fault), (404, Fault), (302, Fault)])
def test_what_asking_again_does_not_mend_is_told_at_once(status: int, error: type[SeatrialError]):
    clock = Instant()
    with (
        engine_that(lambda _path, _body: Says(status=status)) as engine,
        HttpRanker(engine.address, "judge", clock=clock) as ranker,
        pytest.raises(error, match=str(status)),
    ):
        ranker.rank("p", ["a", "b"])
    assert clock.waited == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_ranker_is_asked_again_three_times(status: int):
    clock = Instant()
    with (
        engine_that(lambda _path, _body: Says(status=status)) as engine,
        HttpRanker(engine.address, "judge", clock=clock) as ranker,
        pytest.raises(Transient),
    ):
        ranker.rank("p", ["a", "b"])
    assert len(engine.asked) == 4
    assert clock.waited == [0.5, 2.0, 5.0]


def test_a_ranker_that_comes_back_is_heard():
    answers = [Says(status=503), replies("1")]
    with engine_that(lambda _path, _body: answers.pop(0)) as engine, HttpRanker(engine.address, "judge", clock=Instant()) as ranker:
        assert ranker.rank("p", ["a", "b"]) == 0


def test_a_ranker_that_is_away_is_transient():
    with engine_that(lambda _path, _body: replies("1")) as engine:
        address = engine.address
    with HttpRanker(address, "judge", clock=Instant()) as ranker, pytest.raises(Transient, match="does not answer"):
        ranker.rank("p", ["a", "b"])


def test_what_is_no_chat_completion_is_a_fault():
    with (
        engine_that(lambda _path, _body: Says(raw=b"<html>")) as engine,
        HttpRanker(engine.address, "judge") as ranker,
        pytest.raises(Fault, match="no chat completion"),
    ):
        ranker.rank("p", ["a", "b"])


def test_the_key_and_the_answers_are_in_no_message():
    with (
        engine_that(lambda _path, _body: Says(status=401)) as engine,
        HttpRanker(engine.address, "judge", "secret") as ranker,
        pytest.raises(Fault) as caught,
    ):
        ranker.rank("prompt", ["candidate", "b"])
    assert not any(word in str(caught.value) for word in ("secret", "candidate"))
