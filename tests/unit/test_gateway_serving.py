"""The gateway as clients meet it: over HTTP, with OpenAI's own client, in front of an engine that answers and fails."""

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
from tests.equipment.gateway_env import CALLERS, EXPIRED, KEY, NARROW, OPERATOR, OTHER, Sea, ask, at_sea
from tests.equipment.postgres import free_port

TEXT = "".join(WORDS)


@pytest.fixture
def sea() -> Iterator[Sea]:
    with at_sea() as found:
        yield found


def test_openai_client_gets_a_chat_answer_whose_id_is_the_metered_one(sea: Sea) -> None:
    answer = sea.client().chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == TEXT
    assert answer.model == HARBOUR
    completion = sea.ledger.last()
    assert completion.id == answer.id
    assert completion.id == f"chatcmpl-{sea.engine.requests[0][0]['x-request-id']}"
    assert (completion.outcome, completion.usage, completion.finish_reason, completion.streamed) == (
        Outcome.OK,
        Usage(7, 40),
        "stop",
        False,
    )
    assert (completion.version, completion.principal, completion.status, completion.looped) == (STABLE, "who-one", 200, False)


def test_openai_client_streams_a_chat_and_never_sees_the_usage_it_did_not_ask_for(sea: Sea) -> None:
    chunks = list(sea.client().chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": "hi"}], stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert {chunk.model for chunk in chunks} == {HARBOUR}
    assert all(chunk.choices for chunk in chunks)
    completion = sea.ledger.last()
    assert {chunk.id for chunk in chunks} == {completion.id}
    assert (completion.usage, completion.streamed, completion.outcome) == (Usage(7, 40), True, Outcome.OK)
    assert completion.ttft_s is not None
    assert completion.ttft_s <= completion.seconds


def test_openai_client_that_asks_for_usage_gets_it(sea: Sea) -> None:
    options: Any = {"include_usage": True}
    stream = sea.client().chat.completions.create(
        model=HARBOUR, messages=[{"role": "user", "content": "hi"}], stream=True, stream_options=options
    )
    assert [chunk.usage.completion_tokens for chunk in stream if chunk.usage] == [40]


@pytest.mark.parametrize("stream", [False, True])
def test_openai_client_gets_plain_completions(sea: Sea, stream: bool) -> None:
    answer: Any = sea.client().completions.create(model=HARBOUR, prompt="hi", stream=stream)
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert {chunk.id for chunk in chunks} == {sea.ledger.last().id}
    assert {chunk.model for chunk in chunks} == {HARBOUR}


def test_a_body_reaches_the_engine_byte_by_byte_and_the_clients_request_id_does_not(sea: Sea) -> None:
    body = b' { "model":"harbour",  "messages":[{"role":"user","content":"\\u00fc"}], "x_unknown": 1.50 }'
    sea.call("POST", "/v1/chat/completions", body, x_request_id="mine")
    headers, _, raw = sea.engine.requests[0]
    assert raw == body
    assert headers["x-request-id"] != "mine"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_loops_is_metered_as_looped(sea: Sea, stream: bool) -> None:
    sea.call("POST", "/v1/chat/completions", ask("loop", stream=stream))
    assert sea.ledger.last().looped


def test_models_lists_what_the_key_may_call_and_nothing_else(sea: Sea) -> None:
    assert [model.id for model in sea.client().models.list()] == [HARBOUR]
    assert list(sea.client(NARROW).models.list()) == []
    assert sea.client().models.retrieve(HARBOUR).id == HARBOUR
    assert sea.call("GET", "/v1/models/nothing")[0] == 404


def test_a_model_that_the_key_may_not_call_looks_like_one_that_is_not_there(sea: Sea) -> None:
    forbidden = sea.chat("hi", authorization=f"Bearer {NARROW}")
    unknown = sea.call("POST", "/v1/chat/completions", ask("hi", model="nothing"), authorization=f"Bearer {NARROW}")
    assert forbidden[0] == unknown[0] == 404
    assert forbidden[1]["error"]["code"] == "model_not_found"
    assert json.dumps(forbidden[1]).replace(HARBOUR, "nothing") == json.dumps(unknown[1])
    with pytest.raises(openai.NotFoundError, match="this key may use: harbour"):
        sea.client().chat.completions.create(model="nothing", messages=[{"role": "user", "content": "hi"}])
    assert not sea.ledger.reserved


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer st-unknown", f"Basic {KEY}", f"Bearer {EXPIRED}", "Bearer " + "x" * 9000]
)
def test_without_a_live_key_nothing_opens(sea: Sea, header: str) -> None:
    status, body, told = sea.chat("hi", authorization=header)
    assert (status, body["error"]["code"], told["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
    assert not sea.engine.requests


def test_a_revoked_key_closes_within_a_refresh(sea: Sea) -> None:
    assert sea.chat("hi")[0] == 200
    sea.routes.revoke(KEY)
    until(lambda: sea.chat("hi")[0] == 401)


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
def test_a_bad_body_is_refused_with_a_reason_and_reaches_no_engine(sea: Sea, body: bytes) -> None:
    status, answer, _ = sea.call("POST", "/v1/chat/completions", body)
    assert status == 400, answer
    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["message"]
    assert not sea.engine.requests


def test_odd_but_legal_fields_do_not_break_the_gateway(sea: Sea) -> None:
    messages = [{"role": ["x"], "content": {"a": 1}}, {"role": "user", "content": "\ud800"}, {"role": "user", "content": "hi"}]
    assert sea.call("POST", "/v1/chat/completions", {"model": HARBOUR, "messages": messages})[0] == 200


def test_a_body_that_is_too_large_is_refused_declared_or_not(sea: Sea) -> None:
    assert sea.call("POST", "/v1/chat/completions", b"x" * (4 * 1024 * 1024 + 1))[0] == 413
    connection = http.client.HTTPConnection(sea.url.removeprefix("http://"), timeout=10)
    headers = {"authorization": f"Bearer {KEY}"}
    connection.request("POST", "/v1/chat/completions", iter([b"x" * 1024 * 1024] * 5), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_other_paths_methods_and_huge_headers_get_openai_shaped_errors(sea: Sea) -> None:
    assert sea.call("GET", "/v2/nothing")[0] == 404
    assert sea.call("GET", "/v1/chat/completions")[1]["error"]["code"] == "method_not_allowed"
    assert sea.call("GET", "/v1/models", x_long="x" * 40_000)[0] == 431
    assert sea.chat("hi", x_seatrial_conversation="no spaces please")[0] == 400


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("wish", "status", "outcome"),
    [
        ("status 400", 400, Outcome.CLIENT_ERROR),
        ("status 422", 422, Outcome.CLIENT_ERROR),
        ("status 404", 502, Outcome.ENGINE_ERROR),
        ("status 500", 502, Outcome.ENGINE_ERROR),
        ("status 503", 503, Outcome.ENGINE_ERROR),
        ("garbage", 502, Outcome.ENGINE_ERROR),
        ("close", 503, Outcome.ENGINE_ERROR),
        ("give up", 503, Outcome.ENGINE_ERROR),
    ],
)
def test_a_failing_engine_is_told_in_openai_shape_and_metered(sea: Sea, stream: bool, wish: str, status: int, outcome: Outcome) -> None:
    got, body, told = sea.call("POST", "/v1/chat/completions", ask(wish, stream=stream))
    assert got == status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert ("retry-after" in told) == (status == 503)
    completion = sea.ledger.last()
    assert (completion.outcome, completion.status, completion.usage) == (outcome, status, None)


def test_the_engines_own_words_reach_a_client_whose_request_was_wrong(sea: Sea) -> None:
    with pytest.raises(openai.BadRequestError, match="engine says 400") as caught:
        sea.client().chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": "status 400"}])
    assert caught.value.param == "top_p"


@pytest.mark.parametrize("wish", ["cut", "give up half way"])
def test_an_answer_cut_half_way_is_an_engine_error(sea: Sea, wish: str) -> None:
    assert sea.chat(wish)[0] == 502
    assert sea.ledger.last().outcome is Outcome.ENGINE_ERROR


@pytest.mark.parametrize("wish", ["cut", "error", "stall", "give up half way"])
def test_a_stream_that_breaks_ends_with_an_error_event(sea: Sea, wish: str) -> None:
    client = sea.client()
    with pytest.raises(openai.APIError):  # an error status where nothing was streamed yet, an event where something was
        list(client.chat.completions.create(model=HARBOUR, messages=[{"role": "user", "content": wish}], stream=True))
    assert sea.ledger.last().outcome is Outcome.ENGINE_ERROR
    if wish == "stall":
        assert sea.ledger.last().status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_takes_the_engines_work_with_it(sea: Sea, stream: bool) -> None:
    body = json.dumps(ask("hang", stream=stream)).encode()
    with socket.create_connection(("127.0.0.1", int(sea.url.rsplit(":", 1)[1]))) as wire:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        wire.sendall(head.encode() + body)
        until(lambda: sea.engine.requests)
    assert sea.engine.gone.wait(0.9)  # sooner than the stall limit would close it
    assert sea.ledger.last().outcome is Outcome.CLIENT_GONE


def test_connections_are_kept_and_a_stale_one_is_replaced_unnoticed(sea: Sea) -> None:
    for _ in range(3):
        assert sea.chat("hi")[0] == 200
        sea.ledger.last()
    assert sea.engine.connections == 1
    for _ in range(3):
        assert sea.chat("close after")[0] == 200
    assert sea.chat("hi")[0] == 200


def test_a_connection_that_is_too_old_carries_no_other_request() -> None:
    engine, ledger = Engine(), MemoryLedger()
    routes = FixedRoutes(CALLERS, route(engine.address))
    with serving(gateway(routes, ledger, InProcessAssignments(), SystemClock(), name="gw", reuse_s=0.0)) as url:
        sea = Sea(url, engine, engine, routes, ledger, [])
        for stream in (False, True, False):
            assert sea.call("POST", "/v1/chat/completions", ask("hi", stream=stream))[0] == 200
            sea.ledger.last()
    assert engine.connections == 3
    engine.close()


def test_streams_give_their_connection_back(sea: Sea) -> None:
    for _ in range(3):
        sea.call("POST", "/v1/chat/completions", ask("hi", stream=True))
        sea.ledger.last()
    assert sea.engine.connections == 1


def test_an_engine_that_is_away_or_gone_is_a_503_with_retry_after(sea: Sea) -> None:
    sea.follow(route(""))
    status, _, told = sea.chat("hi")
    assert (status, told["retry-after"]) == (503, "2")
    assert sea.ledger.last().outcome is Outcome.ENGINE_ERROR
    sea.follow(route("http://127.0.0.1:9"))
    assert sea.chat("hi")[0] == 503
    sea.follow(route(None))
    assert sea.chat("hi")[1]["error"]["code"] == "model_not_ready"


def test_a_request_waits_for_an_engine_that_is_being_replaced_but_not_for_ever() -> None:
    port = free_port("127.0.0.1")
    routes, ledger = FixedRoutes(CALLERS, route(f"http://127.0.0.1:{port}")), MemoryLedger()
    app = gateway(routes, ledger, InProcessAssignments(), SystemClock(), name="gw", hold_s=0.4)
    with serving(app) as url:
        sea = Sea(url, None, None, routes, ledger, [])  # type: ignore[arg-type] # no engine is there yet
        assert sea.chat("hi")[0] == 503
    app = gateway(routes, ledger, InProcessAssignments(), SystemClock(), name="gw", hold_s=30.0)
    with serving(app) as url, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(Sea(url, None, None, routes, ledger, []).chat, "hi")  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        engine = Engine(port)
        assert waiting.result(30)[0] == 200
    engine.close()


@pytest.mark.parametrize("stream", [False, True])
def test_what_an_ending_engine_gives_up_unsaid_is_asked_again(stream: bool) -> None:
    engine, ledger = Engine(), MemoryLedger()
    app = gateway(
        FixedRoutes(CALLERS, route(engine.address)), ledger, InProcessAssignments(), SystemClock(), name="gw", ship_s=0.02, hold_s=30.0
    )
    with serving(app) as url:
        sea = Sea(url, engine, engine, FixedRoutes(CALLERS, route(engine.address)), ledger, [])
        status, said, _ = sea.call("POST", "/v1/chat/completions", ask("give up once", stream=stream))
    assert status == 200
    assert "Ahoy" in str(said)
    assert "abort" not in str(said)
    assert len(engine.requests) == 2
    assert ledger.last().outcome is Outcome.OK
    engine.close()


def test_what_cannot_be_metered_is_not_served(sea: Sea) -> None:
    sea.ledger.full = True
    assert sea.chat("hi")[1]["error"]["code"] == "ledger_fault"
    assert not sea.engine.requests


def test_the_routes_in_use_stay_while_the_database_is_away(sea: Sea) -> None:
    sea.routes.away = sea.ledger.away = True
    sea.routes.set()
    assert sea.chat("hi")[0] == 200
    sea.routes.away = False
    until(lambda: sea.chat("hi")[0] == 404)


def test_health_says_which_generation_is_followed_and_reports_go_on(sea: Sea) -> None:
    sea.follow(route(sea.engine.address))
    assert sea.call("GET", "/healthz")[:2] == (200, {"generation": 2})
    seen = len(sea.routes.reports)
    until(lambda: len(sea.routes.reports) > seen)
    assert sea.routes.reports[-1] == ("gw-1", 2)


def test_a_gateway_without_a_first_snapshot_says_so_until_it_has_one() -> None:
    routes, ledger = FixedRoutes(CALLERS), MemoryLedger(away=True)
    app = gateway(routes, ledger, InProcessAssignments(), SystemClock(), name="gw", refresh_s=0.02, ship_s=0.02)
    with serving(app) as url:
        dark = Sea(url, None, None, routes, ledger, [])  # type: ignore[arg-type]
        assert dark.call("GET", "/healthz")[0] == 503
        assert dark.call("GET", "/v1/models")[0] == 503
        ledger.away = False
        until(lambda: dark.call("GET", "/healthz")[0] == 200)


def test_shutting_down_ships_once_more() -> None:
    ledger = MemoryLedger()
    app = gateway(FixedRoutes(CALLERS), ledger, InProcessAssignments(), SystemClock(), name="gw", ship_s=60)
    with serving(app):
        assert ledger.ships == 1  # before it remembered
    assert ledger.ships == 2


def test_a_restarted_gateway_remembers_which_version_a_conversation_has(sea: Sea) -> None:
    sea.chat("hi")
    kept = sea.ledger.assignment()
    routes = FixedRoutes(CALLERS, route(sea.engine.address, sea.candidate.address, share=1.0))
    app = gateway(routes, MemoryLedger(), InProcessAssignments(), SystemClock(), name="gw-2", remembered=lambda: [kept])
    with serving(app) as url:
        again = Sea(url, sea.engine, sea.candidate, routes, sea.ledger, [])
        assert again.chat("hi")[2]["x-seatrial-version"] == STABLE[:12]
        assert again.chat("new")[2]["x-seatrial-version"] == CANDIDATE[:12]


def test_shutting_down_lets_an_answer_finish_that_is_under_way() -> None:
    engine, ledger = Engine(), MemoryLedger()
    app = gateway(FixedRoutes(CALLERS, route(engine.address)), ledger, InProcessAssignments(), SystemClock(), name="gw", stall_s=0.5)
    wire = None
    with serving(app) as url:
        wire = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        wire.request("POST", "/v1/chat/completions", json.dumps(ask("hang", stream=True)), {"authorization": f"Bearer {KEY}"})
        answer = wire.getresponse()
        until(lambda: engine.requests)
    assert b"engine_error" in answer.read()  # the engine stalls, so this is how it ends: told, metered, after the shutdown began
    assert ledger.last().outcome is Outcome.ENGINE_ERROR
    wire.close()
    engine.close()


def test_an_unchanged_client_stays_with_its_version_while_the_share_changes(sea: Sea) -> None:
    first = sea.chat("hi")
    assert first[2]["x-seatrial-version"] == STABLE[:12]
    sea.follow(route(sea.engine.address, sea.candidate.address, share=1.0))
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": TEXT}, {"role": "user", "content": "more"}]
    later = sea.call("POST", "/v1/chat/completions", {"model": HARBOUR, "messages": messages})
    assert later[2]["x-seatrial-version"] == STABLE[:12]
    assert later[2]["x-seatrial-conversation"] == first[2]["x-seatrial-conversation"]
    assert sea.chat("new")[2]["x-seatrial-version"] == CANDIDATE[:12]


def test_a_withdrawn_versions_conversation_moves_and_its_feedback_counts_for_no_one(sea: Sea) -> None:
    sea.follow(route(sea.engine.address, sea.candidate.address, share=1.0))
    first = sea.chat("hi")
    sea.follow(route(sea.engine.address))
    moved = sea.chat("hi")
    assert (moved[2]["x-seatrial-version"], moved[2]["x-seatrial-moved"]) == (STABLE[:12], "1")
    assert sea.ledger.assignment().moved
    for answer in (first, moved):
        assert sea.call("POST", "/v1/feedback", {"id": answer[1]["id"], "thumb": "up"})[1]["counted"] is False


def test_only_an_operators_key_may_hold_synthetic_conversations(sea: Sea) -> None:
    sea.follow(route(sea.engine.address, sea.candidate.address, share=0.01))
    sea.chat("hi", x_seatrial_synthetic="1")
    assert (sea.ledger.assignment().synthetic, sea.ledger.assignment().share) == (False, 0.01)
    sea.chat("hi", x_seatrial_synthetic="1", authorization=f"Bearer {OPERATOR}")
    assert (sea.ledger.assignment().synthetic, sea.ledger.assignment().share) == (True, 0.5)


def test_a_vote_is_kept_before_it_is_acknowledged(sea: Sea) -> None:
    answer = sea.chat("hi")[1]["id"]
    status, body, _ = sea.call("POST", "/v1/feedback", {"completion_id": answer, "thumb": "down", "comment": " wrong \u2693 "})
    assert (status, body["thumb"], body["counted"]) == (200, "down", True)
    assert [(vote.completion, vote.thumb, vote.comment, vote.version) for vote in sea.ledger.votes] == [
        (answer, Thumb.DOWN, "wrong ⚓", STABLE)
    ]
    sea.ledger.full = True
    assert sea.call("POST", "/v1/feedback", {"id": answer, "thumb": "up"})[0] == 503


def test_another_principals_completion_looks_like_none(sea: Sea) -> None:
    answer = sea.chat("hi")[1]["id"]
    theirs = sea.call("POST", "/v1/feedback", {"id": answer, "thumb": "up"}, authorization=f"Bearer {OTHER}")
    nobodys = sea.call("POST", "/v1/feedback", {"id": "chatcmpl-x", "thumb": "up"}, authorization=f"Bearer {OTHER}")
    assert theirs[0] == nobodys[0] == 404
    assert json.dumps(theirs[1]).replace(answer, "chatcmpl-x") == json.dumps(nobodys[1])
    assert not sea.ledger.votes


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
def test_a_bad_vote_is_refused_and_names_the_field(sea: Sea, vote: dict[str, object]) -> None:
    status, body, _ = sea.call("POST", "/v1/feedback", vote)
    assert status == 400
    assert body["error"]["param"]


def test_metrics_count_ends_tokens_and_routes_and_are_for_operators_elsewhere(sea: Sea) -> None:
    sea.follow(route(sea.engine.address, sea.candidate.address, share=0.25))
    sea.chat("hi", x_seatrial_conversation="c")
    sea.ledger.last()
    page = sea.call("GET", "/metrics")[1]
    assert 'seatrial_candidate_share{endpoint="harbour"} 0.25' in page
    assert 'outcome="ok"' in page
    assert "seatrial_tokens_out_total" in page
    assert sea.call("GET", "/metrics", x_forwarded_for="198.51.100.7")[0] in (401, 403)
    assert sea.call("GET", "/metrics", x_forwarded_for="198.51.100.7", authorization=f"Bearer {OPERATOR}")[0] == 200
    sea.follow()
    assert 'endpoint="harbour"' not in sea.call("GET", "/metrics")[1]


def test_a_version_is_counted_from_zero_so_that_its_first_failed_request_is_an_increase(sea: Sea) -> None:
    page = sea.call("GET", "/metrics")[1]
    for outcome in ("ok", "engine_error", "client_error", "client_gone"):
        assert f'seatrial_requests_total{{endpoint="harbour",outcome="{outcome}"' in page
    assert "lost" not in page, "a living gateway loses none; those of a dead one are in the database"


def test_neither_prompts_nor_answers_nor_keys_are_ever_logged(sea: Sea, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for wish in ("status 500", "a secret prompt", "cut"):
        sea.chat(wish)
        sea.call("POST", "/v1/chat/completions", ask(wish, stream=True))
    sea.ledger.last()
    sea.ledger.full = True
    sea.chat("a secret prompt")
    ours = " ".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records if record.name.startswith("serving"))
    assert ours
    for secret in ("secret prompt", "harbour größer", "Ahoy", KEY, NAME, LOOP[:20]):
        assert secret not in ours
