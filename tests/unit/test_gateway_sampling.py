"""An endpoint's policy: sampling defaults, best-of, and loops in every kind of answer."""

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
from serving.gateway.requests import Kind, parse_completion_request
from serving.gateway.sampling import apply_policy, mean_logprob, select_choice
from tests.equipment.gateway_doubles import CANDIDATE, HARBOUR, STABLE, route
from tests.equipment.gateway_env import GatewayEnv, chat_body, gateway_env

DEFAULTS = EndpointPolicy(temperature=0.3, top_p=0.9, frequency_penalty=0.25)
FOUR = EndpointPolicy(temperature=0.8, best_of=4, policy=BestOf.MEAN_LOGPROB)
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def env() -> Iterator[GatewayEnv]:
    with gateway_env() as found:
        yield found


def set_policy(env: GatewayEnv, policy: EndpointPolicy) -> None:
    env.follow(route(env.engine.address, policy=policy))


def forwarded(env: GatewayEnv) -> dict[str, Any]:
    return env.engine.requests[-1][1]


def test_defaults_apply_where_the_request_sets_no_value_and_the_other_bytes_stay(env: GatewayEnv) -> None:
    set_policy(env, DEFAULTS)
    body = b' { "model":"harbour",  "messages":[{"role":"user","content":"\\u00fc"}], "top_p": 0.50, "x": 1e2 }'
    env.call("POST", CHAT, body)
    assert env.engine.requests[-1][2] == body.replace(b"{", b'{"temperature":0.3,"frequency_penalty":0.25,', 1)


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
def test_defaults_apply_to_chats_and_texts_streamed_or_not(env: GatewayEnv, path: str, stream: bool) -> None:
    set_policy(env, DEFAULTS)
    request_body = (
        chat_body("hi", stream=stream, temperature=1.1)
        if path == CHAT
        else {"model": HARBOUR, "prompt": "hi", "temperature": 1.1, "stream": stream}
    )
    status, _, response_headers = env.call("POST", path, request_body)
    body = forwarded(env)
    assert (status, body["temperature"], body["top_p"], body["frequency_penalty"]) == (200, 1.1, 0.9, 0.25)
    assert body.get("stream_options") == ({"include_usage": True} if stream else None)
    assert "x-seatrial-best-of" not in response_headers
    assert env.ledger.last().usage == Usage(7, 40)


def test_a_temperature_of_zero_is_kept_and_null_gets_the_default() -> None:
    for given_, wanted in ((0, 0), (None, 0.3)):
        sent = apply_policy(parse_completion_request(Kind.CHAT, json.dumps(chat_body("hi", temperature=given_)).encode()), DEFAULTS)
        assert json.loads(sent.body)["temperature"] == wanted == sent.document["temperature"]


@pytest.mark.parametrize("policy", [EndpointPolicy(), EndpointPolicy(keep_text_days=9), EndpointPolicy(best_of=4)], ids=str)
def test_without_a_policy_the_request_stays_the_same_object(policy: EndpointPolicy) -> None:
    whole = parse_completion_request(Kind.CHAT, json.dumps(chat_body("hi")).encode())
    assert apply_policy(whole, policy) is whole
    full = parse_completion_request(Kind.CHAT, json.dumps(chat_body("hi", temperature=1, top_p=1, frequency_penalty=0)).encode())
    assert apply_policy(full, DEFAULTS) is full


@given(
    fields=st.dictionaries(
        st.sampled_from(["temperature", "top_p", "frequency_penalty", "n", "logprobs", "seed", "x"]),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    ),
    stream=st.booleans(),
    policy=st.sampled_from([DEFAULTS, FOUR]),
)
def test_what_the_application_set_is_never_changed(fields: dict[str, Any], stream: bool, policy: EndpointPolicy) -> None:
    request_body = json.loads(json.dumps(chat_body("hi", stream=stream, **fields)))
    sent = apply_policy(parse_completion_request(Kind.CHAT, json.dumps(request_body).encode()), policy)
    body = json.loads(sent.body)
    assert body == sent.document
    kept = {name: value for name, value in request_body.items() if value is not None and not (sent.draws > 1 and name in ("n", "logprobs"))}
    assert {name: body[name] for name in kept} == kept
    for name, value in policy.sampling().items():
        assert body[name] == (value if request_body.get(name) is None else request_body[name])


def test_stable_and_candidate_get_the_same_defaults(env: GatewayEnv) -> None:
    env.follow(route(env.engine.address, env.candidate.address, share=0.5, policy=FOUR))
    seen = {env.chat(f"conversation {number}")[2]["x-seatrial-version"] for number in range(40)}
    assert seen == {STABLE[:12], CANDIDATE[:12]}
    bodies = [body for engine in (env.engine, env.candidate) for _, body, _ in engine.requests]
    assert {(body["temperature"], body["n"], body["logprobs"]) for body in bodies} == {(0.8, 4, True)}


def test_a_new_policy_applies_and_so_does_its_removal(env: GatewayEnv) -> None:
    for policy, wanted in ((DEFAULTS, 0.3), (EndpointPolicy(), None)):
        set_policy(env, policy)
        env.chat("hi")
        assert forwarded(env).get("temperature") == wanted


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_of_several_answers_only_the_likeliest_is_sent(env: GatewayEnv, path: str) -> None:
    set_policy(env, FOUR)
    request_body = chat_body("likeliest loops") if path == CHAT else {"model": HARBOUR, "prompt": "likeliest loops"}
    status, body, response_headers = env.call("POST", path, request_body)
    (choice,) = body["choices"]
    assert (status, choice["index"], choice["logprobs"], choice["finish_reason"]) == (200, 0, None, "length")
    assert (choice["message"]["content"] if path == CHAT else choice["text"]).startswith("and again")
    assert response_headers["x-seatrial-best-of"] == "4"
    assert (forwarded(env)["n"], forwarded(env)["logprobs"]) == (4, True if path == CHAT else 0)
    completion = env.ledger.last()
    assert (body["id"], body["model"]) == (completion.id, HARBOUR)
    assert (completion.finish_reason, completion.looped) == ("length", True)


def test_every_token_that_was_drawn_is_metered_as_the_engine_counts_it(env: GatewayEnv) -> None:
    set_policy(env, FOUR)
    seen = []
    for content in ("hi", "one only", "more"):
        usage = env.chat(content)[1]["usage"]
        seen.append(env.ledger.last().usage)
        assert seen[-1] == Usage(usage["prompt_tokens"], usage["completion_tokens"])
    assert [usage.completion_tokens for usage in seen if usage] == [160, 40, 160]
    assert env.engine.counted == [sum(usage.prompt_tokens for usage in seen if usage), 360]


def test_openai_client_gets_one_answer_with_the_logprobs_that_it_asked_for(env: GatewayEnv) -> None:
    set_policy(env, FOUR)
    made = env.client().chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": "hi"}], logprobs=True)
    (choice,) = made.choices
    assert choice.logprobs is not None
    assert [token.logprob for token in choice.logprobs.content or ()] == pytest.approx([-0.35, 0.15])
    text = env.client().completions.create(model=HARBOUR, prompt="hi", logprobs=0)
    assert text.choices[0].logprobs is not None


ALONE: list[dict[str, Any]] = [
    {"stream": True}, {"n": 2}, {"temperature": 0}, {"temperature": 1e-9}, {"temperature": "warm"}, {"logprobs": "yes"},
    {"top_logprobs": 3}, {"use_beam_search": True}, {"prompt_logprobs": 1},
]  # fmt: skip


@pytest.mark.parametrize("fields", ALONE, ids=str)
def test_requests_that_best_of_does_not_fit_get_the_defaults_only(env: GatewayEnv, fields: dict[str, Any]) -> None:
    set_policy(env, FOUR)
    request_body = chat_body("hi", **fields)
    status, _, response_headers = env.call("POST", CHAT, request_body)
    wanted = {"temperature": 0.8, **request_body}
    assert (status, response_headers["x-seatrial-best-of"]) == (200, "1")
    assert {name: value for name, value in forwarded(env).items() if name != "stream_options"} == wanted


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
def test_several_answers_are_drawn_only_for_a_text_request_for_one_answer(fields: dict[str, Any], draws: int) -> None:
    assert apply_policy(parse_completion_request(Kind.TEXT, json.dumps({"model": "m", **fields}).encode()), FOUR).draws == draws


def test_an_engine_that_refuses_several_answers_gets_a_request_for_one(env: GatewayEnv) -> None:
    set_policy(env, FOUR)
    status, body, response_headers = env.chat("one only")
    assert (status, len(body["choices"]), response_headers["x-seatrial-best-of"]) == (200, 1, "1")
    assert [request.get("n") for _, request, _ in env.engine.requests] == [4, None]
    assert env.ledger.last().outcome is Outcome.OK


def test_an_invalid_request_is_refused_with_the_engines_message(env: GatewayEnv) -> None:
    set_policy(env, FOUR)
    status, body, _ = env.chat("status 400")
    assert status == 400
    assert "engine says 400" in body["error"]["message"]
    assert env.ledger.last().outcome is Outcome.CLIENT_ERROR


@pytest.mark.parametrize("scenario", ["status 500", "cut", "close"])
def test_an_engine_that_fails_at_best_of_is_metered_as_an_error(env: GatewayEnv, scenario: str) -> None:
    set_policy(env, FOUR)
    assert env.chat(scenario)[0] in (502, 503)
    assert env.ledger.last().outcome is Outcome.ENGINE_ERROR


def choice(index: int, *logprobs: object) -> dict[str, Any]:
    return {"index": index, "text": str(index), "logprobs": {"token_logprobs": list(logprobs)}}


def test_the_mean_and_not_the_sum_decides_and_the_first_among_equals_is_selected() -> None:
    request = apply_policy(parse_completion_request(Kind.TEXT, b'{"model":"m","prompt":"hi"}'), FOUR)
    document = {"choices": [choice(0, -0.9), choice(1, None, -0.5, -0.5), choice(2, -0.5), choice(3)], "usage": {"completion_tokens": 5}}
    chosen, index = select_choice(request, document)
    assert (index, chosen["choices"][0]["text"], chosen["usage"]) == (1, "1", {"completion_tokens": 5})
    assert select_choice(request, {"choices": []}) == ({"choices": []}, 0)


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
    ("scenario", "n", "looped"), [("loop", 1, True), ("hi", 3, False), ("second loops", 3, True), ("second loops", 1, False)]
)
def test_loops_are_found_in_every_choice_of_every_kind_of_answer(
    env: GatewayEnv, path: str, stream: bool, scenario: str, n: int, looped: bool
) -> None:
    request_body = (
        chat_body(scenario, stream=stream, n=n) if path == CHAT else {"model": HARBOUR, "prompt": scenario, "stream": stream, "n": n}
    )
    assert env.call("POST", path, request_body)[0] == 200
    completion = env.ledger.last()
    assert (completion.looped, completion.usage) == (looped, Usage(7, 40 * n))


def test_a_loop_that_was_drawn_and_not_sent_does_not_count(env: GatewayEnv) -> None:
    set_policy(env, FOUR)
    env.chat("others loop")
    assert not env.ledger.last().looped


@pytest.mark.parametrize(
    ("scenario", "looped"), [("looping reasoning", True), ("looping call", True), ("reasoning and short answer", False)]
)
def test_reasoning_and_tool_calls_are_checked_like_text(env: GatewayEnv, scenario: str, looped: bool) -> None:
    assert env.chat(scenario)[0] == 200
    assert env.ledger.last().looped is looped
