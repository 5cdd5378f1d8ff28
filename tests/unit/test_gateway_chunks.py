"""Reading what engines say: events, usage, loops, names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.degeneration import repeating_tail
from core.errors import Fault
from serving.gateway.chunks import AnswerText, read_piece, rename
from serving.gateway.requests import Kind, parse_ask
from serving.gateway.sse import MAX_EVENT, Events, event

PAYLOADS = st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=8)


@given(payloads=PAYLOADS, ends=st.sampled_from(["\n", "\r\n", "\r"]), cuts=st.lists(st.integers(0, 400), max_size=20))
def test_events_are_the_same_however_the_bytes_are_cut(payloads: list[str], ends: str, cuts: list[int]) -> None:
    raw = "".join(f": note{ends}event: x{ends}data: {payload}{ends}{ends}" for payload in payloads).encode()
    events, got, at = Events(), [], 0
    for cut in [*sorted(cuts), len(raw)]:
        got += events.feed(raw[at:cut] if cut > at else b"")
        at = max(at, cut)
    got += events.feed(b"\n")  # ends a last CR
    assert [data.decode() for data in got] == payloads


def test_data_lines_of_one_event_are_joined() -> None:
    assert Events().feed(b"data: a\ndata:b\nid: 1\n\n") == [b"a\nb"]


def test_an_event_without_an_end_is_a_fault_and_not_all_memory() -> None:
    events = Events()
    for _ in range(8):
        assert events.feed(b"x" * (MAX_EVENT // 8)) == []
    with pytest.raises(Fault):
        events.feed(b"x")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_as_a_piece_or_as_nothing(raw: bytes) -> None:
    read_piece(raw)
    Events().feed(raw)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["choices", "delta", "message", "text", "usage", "index"]), inner)
    ),
    max_leaves=12,
)


@given(JSON, JSON)
def test_odd_documents_do_not_break_the_reader(choices: Any, usage: Any) -> None:
    piece = read_piece(json.dumps({"choices": [choices], "usage": usage}).encode())
    assert piece is not None
    assert not piece.error


@given(model=st.text(st.characters(exclude_categories=["Cs"])), text=st.text(st.characters(exclude_categories=["Cs"])), early=st.booleans())
def test_renaming_changes_id_and_model_and_nothing_else(model: str, text: str, early: bool) -> None:
    document = {"id": "x", "model": model, "choices": [{"text": f'"model":"{text}"', "model": model}]}
    ordered = document if early else dict(reversed(document.items()))
    raw = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    names = {"id": "ours", "model": "harbour"}
    assert json.loads(rename(raw, ordered, names)) == {**ordered, **names}
    assert event(rename(raw, ordered, names)).count(b"\n") == 2


@given(
    head=st.text(max_size=60),
    period=st.text(min_size=1, max_size=40),
    copies=st.integers(1, 40),
    tokens=st.integers(0, 300),
    size=st.integers(1, 50),
)
def test_the_quick_look_for_loops_agrees_with_the_definition(head: str, period: str, copies: int, tokens: int, size: int) -> None:
    text = head + period * copies
    said = AnswerText()
    for start in range(0, len(text), size):
        said.add(text[start : start + size])
    assert said.looped(tokens) == (repeating_tail(text, tokens) is not None)


def test_a_long_answer_is_kept_only_at_its_end_and_its_loop_is_still_found() -> None:
    said = AnswerText()
    for number in range(20_000):
        said.add(f"word {number} ")
    assert not said.looped(40_000)
    for _ in range(400):
        said.add("again and ")
    assert said.looped(40_800)
    assert sum(map(len, said._pieces)) < 20_000


def test_usage_is_asked_for_by_a_splice_or_by_writing_anew() -> None:
    said = b' {"model":"m","stream":true, "messages":[{"role":"user"}]}'
    ask = parse_ask(Kind.CHAT, said)
    assert ask.body == said.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)
    for options in (b"null", b'{"include_usage":false,"continuous_usage_stats":true}'):
        ask = parse_ask(Kind.CHAT, said.replace(b'"stream":true', b'"stream":true,"stream_options":' + options))
        assert json.loads(ask.body)["stream_options"] == {"include_usage": True}
        assert not ask.show_usage
    shown = said.replace(b'"stream":true', b'"stream":true,"stream_options":{"include_usage":true}')
    assert parse_ask(Kind.CHAT, shown).body == shown
