"""Parsing engines' answers: events, usage, text, names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.degeneration import judge_text
from core.errors import Fault
from serving.gateway.chunks import OutputText, OutputTexts, parse_chunk, rename
from serving.gateway.requests import Kind, parse_completion_request
from serving.gateway.sse import MAX_EVENT, EventDecoder, encode_event

PAYLOADS = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=8)


@given(payloads=PAYLOADS, ends=st.sampled_from(["\n", "\r\n", "\r"]), cuts=st.lists(st.integers(0, 400), max_size=20))
def test_events_are_the_same_however_the_bytes_are_cut(payloads: list[str], ends: str, cuts: list[int]) -> None:
    raw = "".join(f": note{ends}event: x{ends}data: {payload}{ends}{ends}" for payload in payloads).encode()
    events, got, at = EventDecoder(), [], 0
    for cut in [*sorted(cuts), len(raw)]:
        got += events.feed(raw[at:cut] if cut > at else b"")
        at = max(at, cut)
    got += events.feed(b"\n")  # ends a last CR
    assert [data.decode() for data in got] == payloads


def test_data_lines_of_one_event_are_joined() -> None:
    assert EventDecoder().feed(b"data: a\ndata:b\nid: 1\n\n") == [b"a\nb"]


def test_an_event_without_an_end_is_a_fault_and_uses_bounded_memory() -> None:
    events = EventDecoder()
    for _ in range(8):
        assert events.feed(b"x" * (MAX_EVENT // 8)) == []
    with pytest.raises(Fault):
        events.feed(b"x")


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_as_a_chunk_or_as_none(raw: bytes) -> None:
    parse_chunk(raw)
    EventDecoder().feed(raw)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["choices", "delta", "message", "text", "usage", "index"]), inner)
    ),
    max_leaves=12,
)


@given(JSON, JSON)
def test_odd_documents_do_not_break_the_parser(choices: Any, usage: Any) -> None:
    chunk = parse_chunk(json.dumps({"choices": [choices], "usage": usage}).encode())
    assert chunk is not None
    assert not chunk.error


@given(model=st.text(st.characters(exclude_categories=["Cs"])), text=st.text(st.characters(exclude_categories=["Cs"])), early=st.booleans())
def test_renaming_changes_id_and_model_and_nothing_else(model: str, text: str, early: bool) -> None:
    document = {"id": "x", "model": model, "choices": [{"text": f'"model":"{text}"', "model": model}]}
    ordered = document if early else dict(reversed(document.items()))
    raw = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    names = {"id": "ours", "model": "harbour"}
    assert json.loads(rename(raw, ordered, names)) == {**ordered, **names}
    assert encode_event(rename(raw, ordered, names)).count(b"\n") == 2


@given(text=st.text("ab \n.", max_size=300), period=st.text("ab", min_size=1), copies=st.integers(1, 40), size=st.integers(1, 50))
def test_an_answer_is_judged_alike_whole_and_in_parts(text: str, period: str, copies: int, size: int) -> None:
    text += period * copies
    output = OutputText()
    for start in range(0, len(text), size):
        output.add(text[start : start + size])
    assert output.judge(80, "length") == judge_text(text, 80, "length")


def test_a_long_answer_is_kept_only_at_its_end_and_its_loop_is_still_found() -> None:
    output = OutputText()
    for number in range(20_000):
        output.add(f"{number * 7919 % 20_011} ")
    assert not output.judge(40_000, "length").looped
    for _ in range(400):
        output.add("again and ")
    assert output.judge(40_800, "length").looped
    assert sum(map(len, output._parts)) < 20_000


@pytest.mark.parametrize(("only", "judged"), [(None, (True, True)), (0, (False, True)), (1, (True, False)), (2, (False, False))])
def test_loops_and_nonsense_are_judged_by_choice(only: int | None, judged: tuple[bool, bool]) -> None:
    salad = "threads alone revered hippocreek collects medical decverted superzan twisting laid Newfoundland LEG negotiate conduction "
    sound = "The tide comes in twice a day, and the boats go out with it as soon as the wind allows them to leave the harbour."
    texts = OutputTexts()
    choices = [{"index": index, "text": text} for index, text in enumerate((salad, "round and round we go " * 9, sound))]
    texts.add(parse_chunk(json.dumps({"choices": choices}).encode()) or pytest.fail("no chunk"))
    assert texts.judge(150, {1: "length"}, only) == judged


def test_usage_is_requested_by_inserting_a_field_or_by_serializing_the_body() -> None:
    body = b' {"model":"m","stream":true, "messages":[{"role":"user"}]}'
    request = parse_completion_request(Kind.CHAT, body)
    assert request.body == body.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)
    for options in (b"null", b'{"include_usage":false,"continuous_usage_stats":true}'):
        request = parse_completion_request(Kind.CHAT, body.replace(b'"stream":true', b'"stream":true,"stream_options":' + options))
        assert json.loads(request.body)["stream_options"] == {"include_usage": True}
        assert not request.show_usage
    shown = body.replace(b'"stream":true', b'"stream":true,"stream_options":{"include_usage":true}')
    assert parse_completion_request(Kind.CHAT, shown).body == shown
