"""A loop is an exact repetition of 4 copies and 24 tokens or more at the end of an answer; ordinary text is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.degeneration import MIN_COPIES, MIN_TOKENS, repeating_tail

ORDINARY = (
    "The tide rises and falls because the moon draws the sea towards it, and the sun does so too, though less. "
    "Twice a month both pull along one line, and then the water climbs higher than on other days. In between they pull at right angles."
)


@pytest.mark.parametrize(
    "text",
    [
        ORDINARY,
        "",
        "Aye.",
        "    return [x for x in range(10) if x % 2 == 0 and x % 3 == 0 and x % 5 == 0 or x in (1, 2, 3)]\n",
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26",
        "no no no no, said the sailor, and went on with his work as if nothing had been asked of him that day",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n| 5 | 6 |\n| 7 | 8 |\n| 9 | 0 |\n",
    ],
)
def test_normal_text_is_no_loop(text: str) -> None:
    assert repeating_tail(text, max(1, len(text) // 4)) is None


def test_white_space_alone_is_no_loop() -> None:
    assert repeating_tail("done" + "\n" * 400, 200) is None


def test_loop_at_the_end_is_found_with_its_period_and_length() -> None:
    loop = repeating_tail("It goes on. " + "round and round. " * 10, 80)
    assert loop is not None
    assert (loop.period, loop.length >= 170) == (17, True)


def test_loop_that_ended_before_the_end_is_none() -> None:
    assert repeating_tail("round and round. " * 10 + ORDINARY, 120) is None


def test_last_copy_may_be_cut_by_the_token_limit() -> None:
    text = "Well. " + "abcdefgh" * 6 + "abc"
    loop = repeating_tail(text, len(text))
    assert loop is not None
    assert (loop.period, loop.length) == (8, 51)


def test_exactly_four_copies_are_a_loop_and_one_character_less_is_none() -> None:
    four = "abcdefgh" * MIN_COPIES
    assert repeating_tail("Y" + four, len(four) + 1) is not None
    assert repeating_tail("Y" + four[1:], len(four)) is None


def test_exactly_twenty_four_tokens_are_a_loop_and_one_less_is_none() -> None:
    text = "abcdef" * 8
    assert repeating_tail(text, MIN_TOKENS) is not None
    assert repeating_tail(text, MIN_TOKENS - 1) is None
    longer = "X" * 2 + "abcdef" * 4  # 24 of 26 characters: of 26 tokens 24 are the loop's, of 25 not quite
    assert repeating_tail(longer, 26) is not None
    assert repeating_tail(longer, 25) is None


def test_single_character_repeated_is_a_loop() -> None:
    loop = repeating_tail("a" * 100, 50)
    assert loop is not None
    assert loop.period == 1


@given(st.text("abc ", min_size=1, max_size=12).filter(str.strip), st.integers(4, 30), st.text("xyz", max_size=40))
def test_every_repetition_of_enough_copies_and_tokens_is_found(unit: str, copies: int, before: str) -> None:
    text = before + "X" + unit * copies
    loop = repeating_tail(text, len(text))
    if copies * len(unit) >= MIN_TOKENS:
        assert loop is not None
        assert loop.length >= copies * len(unit)


@given(st.text("ab\n", max_size=120), st.integers(0, 400))
def test_whatever_is_found_is_periodic_and_long_enough(text: str, tokens: int) -> None:
    loop = repeating_tail(text, tokens)
    if loop is None:
        return
    tail = text[len(text) - loop.length :]
    assert all(tail[i] == tail[i + loop.period] for i in range(len(tail) - loop.period))
    assert loop.length >= MIN_COPIES * loop.period
    assert loop.tokens >= MIN_TOKENS
    assert tail.strip()
