"""Text of others, made safe to show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seatrial.cli.output import flowing
from serving.control.plain_text import plain, plain_json


@pytest.mark.parametrize("clean", [plain, flowing])
@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07done", "done"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x00b\x9bc\ud800d\u202ee", "abcde"),
        ("two\nlines\tkept", "two\nlines\tkept"),
        ("naïve 模型 🚢", "naïve 模型 🚢"),
    ],
)
def test_what_moves_a_terminal_is_gone_and_the_rest_stays(clean: type[str], given_text: str, shown: str) -> None:
    assert clean(given_text) == shown


@given(st.text(st.characters()))
def test_what_is_plain_can_be_stored_and_stays_as_it_is(text: str) -> None:
    once = plain(text)
    assert "\x1b" not in once
    assert "\x00" not in once
    once.encode()
    assert plain(once) == once


def test_json_has_no_nan_and_no_infinity() -> None:
    assert plain_json({"a": float("inf"), "b": [float("nan"), 1.5], "c": {"d": "\x1b[1mx"}}) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": "x"},
    }
