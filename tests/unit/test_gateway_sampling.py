"""An endpoint's policy at work: sampling defaults, best-of, and loops in every kind of answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.conversations import Outcome, Usage
from core.endpoints import BestOf, EndpointPolicy
from serving.gateway.requests import Kind, parse_ask
from serving.gateway.sampling import choose, mean_logprob, shaped
from tests.equipment.gateway_doubles import CANDIDATE, HARBOUR, STABLE, route
from tests.equipment.gateway_env import Sea, ask, at_sea

DEFAULTS = EndpointPolicy(temperature=0.3, top_p=0.9, frequency_penalty=0.25)
FOUR = EndpointPolicy(temperature=0.8, best_of=4, policy=BestOf.MEAN_LOGPROB)
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def sea() -> Iterator[Sea]:
    with at_sea() as found:
        yield found


def promise(sea: Sea, policy: EndpointPolicy) -> None:
    sea.follow(route(sea.engine.address, policy=policy))


def asked(sea: Sea) -> dict[str, Any]:
    return sea.engine.requests[-1][1]


def test_defaults_hold_where_the_request_says_nothing_and_the_rest_of_the_body_stays(sea: Sea) -> None:
    promise(sea, DEFAULTS)
    body = b' { "model":"harbour",  "messages":[{"role":"user","content":"\\u00fc"}], "top_p": 0.50, "x": 1e2 }'
    sea.call("POST", CHAT, body)
    assert sea.engine.requests[-1][2] == body.replace(b"{", b'{"temperature":0.3,"frequency_penalty":0.25,', 1)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
def test_defaults_hold_for_chats_and_texts_streamed_or_not(sea: Sea, path: str, stream: bool) -> None:
    promise(sea, DEFAULTS)
    said = (
        ask("hi", stream=stream, temperature=1.1)
        if path == CHAT
        else {"model": HARBOUR, "prompt": "hi", "temperature": 1.1, "stream": stream}
    )
    status, _, told = sea.call("POST", path, said)
    body = asked(sea)
    assert (status, body["temperature"], body["top_p"], body["frequency_penalty"]) == (200, 1.1, 0.9, 0.25)
    assert body.get("stream_options") == ({"include_usage": True} if stream else None)
    assert "x-seatrial-best-of" not in told
    assert sea.ledger.last().usage == Usage(7, 40)


def test_a_temperature_of_zero_is_the_applications_own_and_null_is_not() -> None:
    for given_, wanted in ((0, 0), (None, 0.3)):
        sent = shaped(parse_ask(Kind.CHAT, json.dumps(ask("hi", temperature=given_)).encode()), DEFAULTS)
        assert json.loads(sent.body)["temperature"] == wanted == sent.document["temperature"]


@pytest.mark.parametrize("policy", [EndpointPolicy(), EndpointPolicy(keep_text_days=9), EndpointPolicy(best_of=4)], ids=str)
def test_without_a_policy_nothing_is_written_anew(policy: EndpointPolicy) -> None:
    whole = parse_ask(Kind.CHAT, json.dumps(ask("hi")).encode())
    assert shaped(whole, policy) is whole
    full = parse_ask(Kind.CHAT, json.dumps(ask("hi", temperature=1, top_p=1, frequency_penalty=0)).encode())
    assert shaped(full, DEFAULTS) is full


@given(
    fields=st.dictionaries(
        st.sampled_from(["temperature", "top_p", "frequency_penalty", "n", "logprobs", "seed", "x"]),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    ),
    stream=st.booleans(),
    policy=st.sampled_from([DEFAULTS, FOUR]),
)
def test_what_the_application_set_is_never_changed(fields: dict[str, Any], stream: bool, policy: EndpointPolicy) -> None:
    said = json.loads(json.dumps(ask("hi", stream=stream, **fields)))
    sent = shaped(parse_ask(Kind.CHAT, json.dumps(said).encode()), policy)
    body = json.loads(sent.body)
    assert body == sent.document
    kept = {name: value for name, value in said.items() if value is not None and not (sent.draws > 1 and name in ("n", "logprobs"))}
    assert {name: body[name] for name in kept} == kept
    for name, value in policy.sampling().items():
        assert body[name] == (value if said.get(name) is None else said[name])


def test_stable_and_candidate_get_the_same_defaults(sea: Sea) -> None:
    sea.follow(route(sea.engine.address, sea.candidate.address, share=0.5, policy=FOUR))
    seen = {sea.chat(f"conversation {number}")[2]["x-seatrial-version"] for number in range(40)}
    assert seen == {STABLE[:12], CANDIDATE[:12]}
    bodies = [body for engine in (sea.engine, sea.candidate) for _, body, _ in engine.requests]
    assert {(body["temperature"], body["n"], body["logprobs"]) for body in bodies} == {(0.8, 4, True)}


def test_a_new_policy_is_followed_and_so_is_taking_it_away(sea: Sea) -> None:
    for policy, wanted in ((DEFAULTS, 0.3), (EndpointPolicy(), None)):
        promise(sea, policy)
        sea.chat("hi")
        assert asked(sea).get("temperature") == wanted


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_of_several_answers_the_likeliest_is_sent_as_if_it_were_the_only_one(sea: Sea, path: str) -> None:
    promise(sea, FOUR)
    said = ask("likeliest loops") if path == CHAT else {"model": HARBOUR, "prompt": "likeliest loops"}
    status, body, told = sea.call("POST", path, said)
    (choice,) = body["choices"]
    assert (status, choice["index"], choice["logprobs"], choice["finish_reason"]) == (200, 0, None, "length")
    assert (choice["message"]["content"] if path == CHAT else choice["text"]).startswith("and again")
    assert told["x-seatrial-best-of"] == "4"
    assert (asked(sea)["n"], asked(sea)["logprobs"]) == (4, True if path == CHAT else 0)
    completion = sea.ledger.last()
    assert (body["id"], body["model"]) == (completion.id, HARBOUR)
    assert (completion.finish_reason, completion.looped) == ("length", True)


def test_every_token_that_was_drawn_is_metered_as_the_engine_counts_it(sea: Sea) -> None:
    promise(sea, FOUR)
    seen = []
    for content in ("hi", "one only", "more"):
        usage = sea.chat(content)[1]["usage"]
        seen.append(sea.ledger.last().usage)
        assert seen[-1] == Usage(usage["prompt_tokens"], usage["completion_tokens"])
    assert [usage.completion_tokens for usage in seen if usage] == [160, 40, 160]
    assert sea.engine.counted == [sum(usage.prompt_tokens for usage in seen if usage), 360]


def test_openai_client_gets_one_answer_with_the_logprobs_that_it_asked_for(sea: Sea) -> None:
    promise(sea, FOUR)
    made = sea.client().chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": "hi"}], logprobs=True)
    (choice,) = made.choices
    assert choice.logprobs is not None
    assert [token.logprob for token in choice.logprobs.content or ()] == pytest.approx([-0.35, 0.15])
    text = sea.client().completions.create(model=HARBOUR, prompt="hi", logprobs=0)
    assert text.choices[0].logprobs is not None


ALONE: list[dict[str, Any]] = [
    {"stream": True}, {"n": 2}, {"temperature": 0}, {"temperature": 1e-9}, {"temperature": "warm"}, {"logprobs": "yes"},
    {"top_logprobs": 3}, {"use_beam_search": True}, {"prompt_logprobs": 1},
]  # fmt: skip


@pytest.mark.parametrize("fields", ALONE, ids=str)
def test_requests_that_best_of_does_not_fit_are_passed_with_the_defaults_only(sea: Sea, fields: dict[str, Any]) -> None:
    promise(sea, FOUR)
    said = ask("hi", **fields)
    status, _, told = sea.call("POST", CHAT, said)
    wanted = {"temperature": 0.8, **said}
    assert (status, told["x-seatrial-best-of"]) == (200, "1")
    assert {name: value for name, value in asked(sea).items() if name != "stream_options"} == wanted


@pytest.mark.parametrize(
    ("fields", "draws"),
    [
        ({"prompt": ["a"]}, 4),
        ({"prompt": [1, 2]}, 4),
        ({"prompt": [[1, 2]]}, 4),
        ({"prompt": ["a", "b"]}, 1),
        ({"prompt": "a", "echo": True}, 1),
        ({"prompt": "a", "best_of": 2}, 1),
        ({"prompt": "a", "logprobs": True}, 1),
        ({"prompt": "a", "n": "two"}, 1),
        ({"prompt": "a", "n": 1}, 4),
    ],
    ids=str,
)
def test_a_text_request_is_drawn_several_times_only_where_it_wants_one_answer(fields: dict[str, Any], draws: int) -> None:
    assert shaped(parse_ask(Kind.TEXT, json.dumps({"model": "m", **fields}).encode()), FOUR).draws == draws


def test_an_engine_that_cannot_draw_several_is_asked_for_one(sea: Sea) -> None:
    promise(sea, FOUR)
    status, body, told = sea.chat("one only")
    assert (status, len(body["choices"]), told["x-seatrial-best-of"]) == (200, 1, "1")
    assert [request.get("n") for _, request, _ in sea.engine.requests] == [4, None]
    assert sea.ledger.last().outcome is Outcome.OK


def test_a_wrong_request_is_still_refused_in_the_engines_words(sea: Sea) -> None:
    promise(sea, FOUR)
    status, body, _ = sea.chat("status 400")
    assert status == 400
    assert "engine says 400" in body["error"]["message"]
    assert sea.ledger.last().outcome is Outcome.CLIENT_ERROR


@pytest.mark.parametrize("wish", ["status 500", "cut", "close"])
def test_an_engine_that_fails_at_best_of_is_metered_as_an_error(sea: Sea, wish: str) -> None:
    promise(sea, FOUR)
    assert sea.chat(wish)[0] in (502, 503)
    assert sea.ledger.last().outcome is Outcome.ENGINE_ERROR


def choice(index: int, *logprobs: object) -> dict[str, Any]:
    return {"index": index, "text": str(index), "logprobs": {"token_logprobs": list(logprobs)}}


def test_the_mean_and_not_the_sum_decides_and_the_first_of_equals_is_taken() -> None:
    asked_ = shaped(parse_ask(Kind.TEXT, b'{"model":"m","prompt":"hi"}'), FOUR)
    document = {"choices": [choice(0, -0.9), choice(1, None, -0.5, -0.5), choice(2, -0.5), choice(3)], "usage": {"completion_tokens": 5}}
    chosen, index = choose(asked_, document)
    assert (index, chosen["choices"][0]["text"], chosen["usage"]) == (1, "1", {"completion_tokens": 5})
    assert choose(asked_, {"choices": []}) == ({"choices": []}, 0)


ODD: Any = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "token_logprobs", "logprob"]), inner),
    max_leaves=8,
)


@given(ODD)
def test_odd_logprobs_never_break_an_answer(odd: Any) -> None:
    assert -inf <= mean_logprob({"logprobs": odd}) <= inf


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wish", "n", "looped"), [("loop", 1, True), ("hi", 3, False), ("second loops", 3, True), ("second loops", 1, False)]
)
def test_loops_are_found_in_every_choice_of_every_kind_of_answer(
    sea: Sea, path: str, stream: bool, wish: str, n: int, looped: bool
) -> None:
    said = ask(wish, stream=stream, n=n) if path == CHAT else {"model": HARBOUR, "prompt": wish, "stream": stream, "n": n}
    assert sea.call("POST", path, said)[0] == 200
    completion = sea.ledger.last()
    assert (completion.looped, completion.usage) == (looped, Usage(7, 40 * n))


def test_a_loop_that_was_drawn_and_not_sent_is_nobodys_experience(sea: Sea) -> None:
    promise(sea, FOUR)
    sea.chat("others loop")
    assert not sea.ledger.last().looped


@pytest.mark.parametrize(("wish", "looped"), [("looping thought", True), ("looping call", True), ("thought and short answer", False)])
def test_thoughts_and_calls_are_read_like_text(sea: Sea, wish: str, looped: bool) -> None:
    assert sea.chat(wish)[0] == 200
    assert sea.ledger.last().looped is looped
