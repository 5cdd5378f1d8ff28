"""The gateway over HTTP, with OpenAI's client, in front of an engine that answers and fails."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from core.conversations import Outcome, Thumb, Usage
from core.ports.clock import SystemClock
from serving.gateway.app import gateway
from serving.gateway.assignments import InProcessAssignments
from tests.equipment.gateway_doubles import CANDIDATE, HARBOUR, STABLE, FixedRoutes, MemoryLedger, route, serving, until
from tests.equipment.gateway_engine import LOOP, NAME, WORDS, Engine
from tests.equipment.gateway_env import CALLERS, EXPIRED, KEY, NARROW, OPERATOR, OTHER, GatewayEnv, chat_body, gateway_env
from tests.equipment.postgres import free_port

TEXT = "".join(WORDS)


@pytest.fixture
def env() -> Iterator[GatewayEnv]:
    with gateway_env() as found:
        yield found


def test_openai_client_gets_a_chat_answer_whose_id_is_the_metered_one(env: GatewayEnv) -> None:
    answer = env.client().chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == TEXT
    assert answer.model == HARBOUR
    completion = env.ledger.last()
    assert completion.id == answer.id
    assert completion.id == f"chatcmpl-{env.engine.requests[0][0]['x-request-id']}"
    assert (completion.outcome, completion.usage, completion.finish_reason, completion.streamed) == (
        Outcome.OK,
        Usage(7, 40),
        "stop",
        False,
    )
    assert (completion.version, completion.principal, completion.status, completion.looped) == (STABLE, "who-one", 200, False)


def test_openai_client_streams_a_chat_without_usage_that_it_did_not_request(env: GatewayEnv) -> None:
    chunks = list(env.client().chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": "hi"}], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert {chunk.model for chunk in chunks} == {HARBOUR}
    assert all(chunk.choices for chunk in chunks)
    completion = env.ledger.last()
    assert {chunk.id for chunk in chunks} == {completion.id}
    assert (completion.usage, completion.streamed, completion.outcome) == (Usage(7, 40), True, Outcome.OK)
    assert completion.ttft_s is not None
    assert completion.ttft_s <= completion.seconds


def test_openai_client_that_requests_usage_gets_it(env: GatewayEnv) -> None:
    options: Any = {"include_usage": True}
    stream = env.client().chat.completions.create(
        model=HARBOUR, messages=[{"role": "user", "content": "hi"}], stream=True, stream_options=options
    )
    assert [chunk.usage.completion_tokens for chunk in stream if chunk.usage] == [40]


@pytest.mark.parametrize("stream", [False, True])
def test_openai_client_gets_plain_completions(env: GatewayEnv, stream: bool) -> None:
    answer: Any = env.client().completions.create(model=HARBOUR, prompt="hi", stream=stream)
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert {chunk.id for chunk in chunks} == {env.ledger.last().id}
    assert {chunk.model for chunk in chunks} == {HARBOUR}


def test_a_body_reaches_the_engine_byte_by_byte_and_the_clients_request_id_does_not(env: GatewayEnv) -> None:
    body = b' { "model":"harbour",  "messages":[{"role":"user","content":"\\u00fc"}], "x_unknown": 1.50 }'
    env.call("POST", "/v1/chat/completions", body, x_request_id="mine")
    headers, _, raw = env.engine.requests[0]
    assert raw == body
    assert headers["x-request-id"] != "mine"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_loops_is_metered_as_looped(env: GatewayEnv, stream: bool) -> None:
    env.call("POST", "/v1/chat/completions", chat_body("loop", stream=stream))
    assert env.ledger.last().looped


def test_models_lists_what_the_key_may_call_and_nothing_else(env: GatewayEnv) -> None:
    assert [model.id for model in env.client().models.list()] == [HARBOUR]
    assert list(env.client(NARROW).models.list()) == []
    assert env.client().models.retrieve(HARBOUR).id == HARBOUR
    assert env.call("GET", "/v1/models/nothing")[0] == 404


def test_a_model_that_the_key_may_not_call_gets_the_404_of_an_unknown_one(env: GatewayEnv) -> None:
    forbidden = env.chat("hi", authorization=f"Bearer {NARROW}")
    unknown = env.call("POST", "/v1/chat/completions", chat_body("hi", model="nothing"), authorization=f"Bearer {NARROW}")
    assert forbidden[0] == unknown[0] == 404
    assert forbidden[1]["error"]["code"] == "model_not_found"
    assert json.dumps(forbidden[1]).replace(HARBOUR, "nothing") == json.dumps(unknown[1])
    with pytest.raises(openai.NotFoundError, match="this key may use: harbour"):
        env.client().chat.completions.create(model="nothing", messages=[{"role": "user", "content": "hi"}])
    assert not env.ledger.reserved


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer st-unknown", f"Basic {KEY}", f"Bearer {EXPIRED}", "Bearer " + "x" * 9000]
)
def test_a_request_without_a_valid_key_is_refused(env: GatewayEnv, header: str) -> None:
    status, body, response_headers = env.chat("hi", authorization=header)
    assert (status, body["error"]["code"], response_headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
    assert not env.engine.requests


def test_a_revoked_key_is_refused_after_the_next_refresh(env: GatewayEnv) -> None:
    assert env.chat("hi")[0] == 200
    env.routes.revoke(KEY)
    until(lambda: env.chat("hi")[0] == 401)


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "an array": b"[]",
    "not UTF-8": b'{"model":"\xff"}',
    "UTF-16": '{"model":"harbour"}'.encode("utf-16"),
    "NaN": b'{"model":"harbour","messages":[{"role":"user","content":"hi"}],"temperature":NaN}',
    "doubled names": b'{"model":"harbour","model":"other","messages":[{"role":"user","content":"hi"}]}',
    "deep": b'{"model":"harbour","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a huge number": b'{"model":"harbour","seed":' + b"9" * 10_000 + b"}",
    "model is a number": b'{"model":1}',
    "no model": b'{"messages":[]}',
    "messages is text": b'{"model":"harbour","messages":"hi"}',
    "messages is empty": b'{"model":"harbour","messages":[]}',
    "message is text": b'{"model":"harbour","messages":["hi"]}',
    "stream is text": b'{"model":"harbour","stream":"yes","messages":[{"role":"user","content":"hi"}]}',
    "stream_options is text": b'{"model":"harbour","stream":true,"stream_options":"x","messages":[{"role":"user","content":"hi"}]}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_body_is_refused_with_a_reason_and_reaches_no_engine(env: GatewayEnv, body: bytes) -> None:
    status, answer, _ = env.call("POST", "/v1/chat/completions", body)
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]
    assert not env.engine.requests


def test_odd_but_legal_fields_do_not_break_the_gateway(env: GatewayEnv) -> None:
    messages = [{"role": ["x"], "content": {"a": 1}}, {"role": "user", "content": "\ud800"}, {"role": "user", "content": "hi"}]
    assert env.call("POST", "/v1/chat/completions", {"model": HARBOUR, "messages": messages})[0] == 200


def test_a_body_that_is_too_large_is_refused_declared_or_not(env: GatewayEnv) -> None:
    assert env.call("POST", "/v1/chat/completions", b"x" * (4 * 1024 * 1024 + 1))[0] == 413
    connection = http.client.HTTPConnection(env.url.removeprefix("http://"), timeout=10)
    headers = {"authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/chat/completions", iter([b"x" * 1024 * 1024] * 5), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_other_paths_methods_and_huge_headers_get_openai_shaped_errors(env: GatewayEnv) -> None:
    assert env.call("GET", "/v2/nothing")[0] == 404
    assert env.call("GET", "/v1/chat/completions")[1]["error"]["code"] == "method_not_allowed"
    assert env.call("GET", "/v1/models", x_long="x" * 40_000)[0] == 431
    assert env.chat("hi", x_seatrial_conversation="no spaces please")[0] == 400


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("scenario", "status", "outcome"),
    [
        ("status 400", 400, Outcome.CLIENT_ERROR),
        ("status 422", 422, Outcome.CLIENT_ERROR),
        ("status 404", 502, Outcome.ENGINE_ERROR),
        ("status 500", 502, Outcome.ENGINE_ERROR),
        ("status 503", 503, Outcome.ENGINE_ERROR),
        ("garbage", 502, Outcome.ENGINE_ERROR),
        ("close", 503, Outcome.ENGINE_ERROR),
        ("abort", 503, Outcome.ENGINE_ERROR),
    ],
)
def test_a_failure_of_the_engine_has_openais_shape_and_is_metered(
    env: GatewayEnv, stream: bool, scenario: str, status: int, outcome: Outcome
) -> None:
    got, body, response_headers = env.call("POST", "/v1/chat/completions", chat_body(scenario, stream=stream))
    assert got == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert ("retry-after" in response_headers) == (status == 503)
    completion = env.ledger.last()
    assert (completion.outcome, completion.status, completion.usage) == (outcome, status, None)


def test_the_engines_message_reaches_a_client_whose_request_was_invalid(env: GatewayEnv) -> None:
    with pytest.raises(openai.BadRequestError, match="engine says 400") as caught:
        env.client().chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": "status 400"}])
    assert caught.value.param == "top_p"


@pytest.mark.parametrize("scenario", ["cut", "abort half way"])
def test_a_truncated_answer_is_an_engine_error(env: GatewayEnv, scenario: str) -> None:
    assert env.chat(scenario)[0] == 502
    assert env.ledger.last().outcome is Outcome.ENGINE_ERROR


@pytest.mark.parametrize("scenario", ["cut", "error", "stall", "abort half way"])
def test_a_truncated_stream_ends_with_an_error_event(env: GatewayEnv, scenario: str) -> None:
    client = env.client()
    with pytest.raises(openai.APIError):  # an error status where nothing was streamed yet, an event where something was
        list(client.chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": scenario}], stream=True))
    assert env.ledger.last().outcome is Outcome.ENGINE_ERROR
    if scenario == "stall":
        assert env.ledger.last().status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_engines_work_is_cancelled_when_the_client_disconnects(env: GatewayEnv, stream: bool) -> None:
    body = json.dumps(chat_body("hang", stream=stream)).encode()
    with socket.create_connection(("127.0.0.1", int(env.url.rsplit(":", 1)[1]))) as wire:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        wire.sendall(head.encode() + body)
        until(lambda: env.engine.requests)
    assert env.engine.gone.wait(0.9)  # sooner than the stall limit would close it
    assert env.ledger.last().outcome is Outcome.CLIENT_GONE


def test_connections_are_reused_and_a_stale_one_is_replaced(env: GatewayEnv) -> None:
    for _ in range(3):
        assert env.chat("hi")[0] == 200
        env.ledger.last()
    assert env.engine.connections == 1
    for _ in range(3):
        assert env.chat("close after")[0] == 200
    assert env.chat("hi")[0] == 200


def test_a_connection_that_is_too_old_is_not_reused() -> None:
    engine, ledger = Engine(), MemoryLedger()
    routes = FixedRoutes(CALLERS, route(engine.address))
    with serving(gateway(routes, ledger, InProcessAssignments(), SystemClock(), name="gw", reuse_s=0.0)) as url:
        env = GatewayEnv(url, engine, engine, routes, ledger)
        for stream in (False, True, False):
            assert env.call("POST", "/v1/chat/completions", chat_body("hi", stream=stream))[0] == 200
            env.ledger.last()
    assert engine.connections == 3
    engine.close()


def test_streams_release_their_connection(env: GatewayEnv) -> None:
    for _ in range(3):
        env.call("POST", "/v1/chat/completions", chat_body("hi", stream=True))
        env.ledger.last()
    assert env.engine.connections == 1


def test_an_unavailable_engine_is_a_503_with_retry_after(env: GatewayEnv) -> None:
    env.follow(route(""))
    status, _, response_headers = env.chat("hi")
    assert (status, response_headers["retry-after"]) == (503, "2")
    assert env.ledger.last().outcome is Outcome.ENGINE_ERROR
    env.follow(route("http://127.0.0.1:9"))
    assert env.chat("hi")[0] == 503
    env.follow(route(None))
    assert env.chat("hi")[1]["error"]["code"] == "model_not_ready"


def test_a_request_waits_for_an_engine_that_is_being_replaced_until_the_limit() -> None:
    port = free_port("127.0.0.1")
    routes, ledger = FixedRoutes(CALLERS, route(f"http://127.0.0.1:{port}")), MemoryLedger()
    app = gateway(routes, ledger, InProcessAssignments(), SystemClock(), name="gw", hold_s=0.4)
    with serving(app) as url:
        env = GatewayEnv(url, None, None, routes, ledger)  # type: ignore[arg-type] # no engine is there yet
        assert env.chat("hi")[0] == 503
    app = gateway(routes, ledger, InProcessAssignments(), SystemClock(), name="gw", hold_s=30.0)
    with serving(app) as url, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(GatewayEnv(url, None, None, routes, ledger).chat, "hi")  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        engine = Engine(port)
        assert waiting.result(30)[0] == 200
    engine.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_a_draining_engine_aborts_before_its_output_is_retried(stream: bool) -> None:
    engine, ledger = Engine(), MemoryLedger()
    app = gateway(
        FixedRoutes(CALLERS, route(engine.address)), ledger, InProcessAssignments(), SystemClock(), name="gw", ship_s=0.02, hold_s=30.0
    )
    with serving(app) as url:
        env = GatewayEnv(url, engine, engine, FixedRoutes(CALLERS, route(engine.address)), ledger)
        status, said, _ = env.call("POST", "/v1/chat/completions", chat_body("abort once", stream=stream))
    assert status == 200
    assert "Ahoy" in str(said)
    assert "abort" not in str(said)
    assert len(engine.requests) == 2
    assert ledger.last().outcome is Outcome.OK
    engine.close()


def test_a_request_that_cannot_be_reserved_is_not_served(env: GatewayEnv) -> None:
    env.ledger.full = True
    assert env.chat("hi")[1]["error"]["code"] == "ledger_fault"
    assert not env.engine.requests


def test_the_routes_in_use_stay_while_the_database_is_unavailable(env: GatewayEnv) -> None:
    env.routes.away = env.ledger.away = True
    env.routes.set()
    assert env.chat("hi")[0] == 200
    env.routes.away = False
    until(lambda: env.chat("hi")[0] == 404)


def test_health_returns_the_generation_in_use_and_reports_continue(env: GatewayEnv) -> None:
    env.follow(route(env.engine.address))
    assert env.call("GET", "/healthz")[:2] == (200, {"generation": 2})
    seen = len(env.routes.reports)
    until(lambda: len(env.routes.reports) > seen)
    assert env.routes.reports[-1] == ("gw-1", 2)


def test_a_gateway_is_not_ready_until_its_first_snapshot() -> None:
    routes, ledger = FixedRoutes(CALLERS), MemoryLedger(away=True)
    app = gateway(routes, ledger, InProcessAssignments(), SystemClock(), name="gw", refresh_s=0.02, ship_s=0.02)
    with serving(app) as url:
        starting = GatewayEnv(url, None, None, routes, ledger)  # type: ignore[arg-type]
        assert starting.call("GET", "/healthz")[0] == 503
        assert starting.call("GET", "/v1/models")[0] == 503
        ledger.away = False
        until(lambda: starting.call("GET", "/healthz")[0] == 200)


def test_shutting_down_ships_the_spool_once_more() -> None:
    ledger = MemoryLedger()
    app = gateway(FixedRoutes(CALLERS), ledger, InProcessAssignments(), SystemClock(), name="gw", ship_s=60)
    with serving(app):
        assert ledger.ships == 1  # before the assignments are restored
    assert ledger.ships == 2


def test_a_restarted_gateway_restores_the_assignments(env: GatewayEnv) -> None:
    env.chat("hi")
    kept = env.ledger.assignment()
    routes = FixedRoutes(CALLERS, route(env.engine.address, env.candidate.address, share=1.0))
    app = gateway(routes, MemoryLedger(), InProcessAssignments(), SystemClock(), name="gw-2", stored_assignments=lambda: [kept])
    with serving(app) as url:
        again = GatewayEnv(url, env.engine, env.candidate, routes, env.ledger)
        assert again.chat("hi")[2]["x-seatrial-version"] == STABLE[:12]
        assert again.chat("new")[2]["x-seatrial-version"] == CANDIDATE[:12]


def test_shutting_down_waits_for_answers_in_flight() -> None:
    engine, ledger = Engine(), MemoryLedger()
    app = gateway(FixedRoutes(CALLERS, route(engine.address)), ledger, InProcessAssignments(), SystemClock(), name="gw", stall_s=0.5)
    wire = None
    with serving(app) as url:
        wire = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        wire.request("POST", "/v1/chat/completions", json.dumps(chat_body("hang", stream=True)), {"authorization": f"Bearer {KEY}"})
        answer = wire.getresponse()
        until(lambda: engine.requests)
    assert b"engine_error" in answer.read()  # the engine stalls; the error is sent and metered after the shutdown began
    assert ledger.last().outcome is Outcome.ENGINE_ERROR
    wire.close()
    engine.close()


def test_an_unchanged_client_stays_with_its_version_while_the_share_changes(env: GatewayEnv) -> None:
    first = env.chat("hi")
    assert first[2]["x-seatrial-version"] == STABLE[:12]
    env.follow(route(env.engine.address, env.candidate.address, share=1.0))
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": TEXT}, {"role": "user", "content": "more"}]
    later = env.call("POST", "/v1/chat/completions", {"model": HARBOUR, "messages": messages})
    assert later[2]["x-seatrial-version"] == STABLE[:12]
    assert later[2]["x-seatrial-conversation"] == first[2]["x-seatrial-conversation"]
    assert env.chat("new")[2]["x-seatrial-version"] == CANDIDATE[:12]


def test_a_withdrawn_versions_conversation_moves_and_its_feedback_does_not_count(env: GatewayEnv) -> None:
    env.follow(route(env.engine.address, env.candidate.address, share=1.0))
    first = env.chat("hi")
    env.follow(route(env.engine.address))
    moved = env.chat("hi")
    assert (moved[2]["x-seatrial-version"], moved[2]["x-seatrial-moved"]) == (STABLE[:12], "1")
    assert env.ledger.assignment().moved
    for answer in (first, moved):
        assert env.call("POST", "/v1/feedback", {"id": answer[1]["id"], "thumb": "up"})[1]["counted"] is False


def test_only_an_operators_key_may_start_synthetic_conversations(env: GatewayEnv) -> None:
    env.follow(route(env.engine.address, env.candidate.address, share=0.01))
    env.chat("hi", x_seatrial_synthetic="1")
    assert (env.ledger.assignment().synthetic, env.ledger.assignment().share) == (False, 0.01)
    env.chat("hi", x_seatrial_synthetic="1", authorization=f"Bearer {OPERATOR}")
    assert (env.ledger.assignment().synthetic, env.ledger.assignment().share) == (True, 0.5)


def test_a_vote_is_stored_before_it_is_acknowledged(env: GatewayEnv) -> None:
    answer = env.chat("hi")[1]["id"]
    status, body, _ = env.call("POST", "/v1/feedback", {"completion_id": answer, "thumb": "down", "comment": " wrong \u2693 "})
    assert (status, body["thumb"], body["counted"]) == (200, "down", True)
    assert [(vote.completion, vote.thumb, vote.comment, vote.version) for vote in env.ledger.votes] == [
        (answer, Thumb.DOWN, "wrong ⚓", STABLE)
    ]
    env.ledger.full = True
    assert env.call("POST", "/v1/feedback", {"id": answer, "thumb": "up"})[0] == 503


def test_feedback_on_another_principals_completion_gets_the_404_of_an_unknown_one(env: GatewayEnv) -> None:
    answer = env.chat("hi")[1]["id"]
    theirs = env.call("POST", "/v1/feedback", {"id": answer, "thumb": "up"}, authorization=f"Bearer {OTHER}")
    unknown = env.call("POST", "/v1/feedback", {"id": "chatcmpl-x", "thumb": "up"}, authorization=f"Bearer {OTHER}")
    assert theirs[0] == unknown[0] == 404
    assert json.dumps(theirs[1]).replace(answer, "chatcmpl-x") == json.dumps(unknown[1])
    assert not env.ledger.votes


@pytest.mark.parametrize(
    "vote",
    [
        {"thumb": "up"},
        {"id": "x y", "thumb": "up"},
        {"id": "chatcmpl-1"},
        {"id": "chatcmpl-1", "thumb": "sideways"},
        {"id": "chatcmpl-1", "thumb": ["up"]},
        {"id": "chatcmpl-1", "comment": "x" * 2001},
        {"id": "chatcmpl-1", "comment": 3},
        {"id": "chatcmpl-1", "comment": "a\0b"},
        {"id": "chatcmpl-1", "comment": "\ud800"},
        {"id": "chatcmpl-1", "thumb": "up", "stars": 5},
    ],
)
def test_a_bad_vote_is_refused_and_names_the_field(env: GatewayEnv, vote: dict[str, object]) -> None:
    status, body, _ = env.call("POST", "/v1/feedback", vote)
    assert status == 400
    assert body["error"]["param"]


def test_metrics_count_ends_tokens_and_routes_and_are_for_operators_elsewhere(env: GatewayEnv) -> None:
    env.follow(route(env.engine.address, env.candidate.address, share=0.25))
    env.chat("hi", x_seatrial_conversation="c")
    env.ledger.last()
    page = env.call("GET", "/metrics")[1]
    assert 'seatrial_candidate_share{endpoint="harbour"} 0.25' in page
    assert 'outcome="ok"' in page
    assert "seatrial_tokens_out_total" in page
    assert 'seatrial_degenerate_total{endpoint="harbour",kind="nonsense"' in page
    assert env.call("GET", "/metrics", x_forwarded_for="198.51.100.7")[0] in (401, 403)
    assert env.call("GET", "/metrics", x_forwarded_for="198.51.100.7", authorization=f"Bearer {OPERATOR}")[0] == 200
    env.follow()
    assert 'endpoint="harbour"' not in env.call("GET", "/metrics")[1]


def test_a_version_is_counted_from_zero_so_that_its_first_failed_request_is_an_increase(env: GatewayEnv) -> None:
    page = env.call("GET", "/metrics")[1]
    for outcome in ("ok", "engine_error", "client_error", "client_gone"):
        assert f'seatrial_requests_total{{endpoint="harbour",outcome="{outcome}"' in page
    assert "lost" not in page, "a running gateway counts no lost completions; those of an ended one are in the database"


def test_neither_prompts_nor_answers_nor_keys_are_ever_logged(env: GatewayEnv, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for scenario in ("status 500", "a secret prompt", "cut"):
        env.chat(scenario)
        env.call("POST", "/v1/chat/completions", chat_body(scenario, stream=True))
    env.ledger.last()
    env.ledger.full = True
    env.chat("a secret prompt")
    ours = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records if record.name.startswith("serving"))
    assert ours
    for secret in ("secret prompt", "harbour größer", "Ahoy", KEY, NAME, LOOP[:20]):
        assert secret not in ours
