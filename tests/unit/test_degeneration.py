"""Loops that are no exact copies, and the marks of nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.degeneration import LoopKind, find_loop, find_nonsense, judge_text

COUNTING = "\n".join(f"{number}. The sea is very large and very blue." for number in range(1, 25))
VARYING = " ".join(
    f"The {who} sat on the mat and looked at the moon for a long time."
    for who in ["cat", "dog", "fox", "cat", "fox", "fox", "dog", "cat", "dog", "dog", "cat", "fox", "cat", "cat"]
)
REPEATING = "It goes on. " + "Round and round it goes. " * 12
SALAD = "threads alone revered collects statistics medical superzan twisting Bris Newfoundland conduction restaurants Cheng DATA evenly"


@pytest.mark.parametrize(("text", "kind"), [(REPEATING, LoopKind.EXACT), (COUNTING, LoopKind.COUNTER), (VARYING, LoopKind.VARIED)])
def test_a_loop_is_found_with_its_kind(text: str, kind: LoopKind) -> None:
    loop = find_loop(text, len(text) // 4, "length")
    assert loop is not None
    assert loop.kind is kind


def test_a_loop_begins_where_its_first_copy_does() -> None:
    loop = find_loop(REPEATING, len(REPEATING) // 4, "length")
    assert loop is not None
    assert abs(loop.begin - len("It goes on. ")) <= len("Round and round it goes. ")


def test_numbers_that_do_not_grow_evenly_are_data() -> None:
    rows = "\n".join(f"Ship {7919 * row % 97}: {row * row % 13} men, {row * 31 % 17} boats" for row in range(9))
    assert find_loop(rows, len(rows) // 3, "length") is None


@pytest.mark.parametrize("reason", ["length", None])
def test_an_answer_that_ended_on_its_own_may_repeat_more(reason: str | None) -> None:
    text = "Sing along: " + "the rain came down on the town, " * 5
    assert find_loop(text, 45, reason) is not None
    assert find_loop(text, 45, "stop") is None


def test_rows_of_zeros_are_a_loop_only_when_they_are_many() -> None:
    assert find_loop("[" + "0, " * 40, 82, "length") is None
    assert find_loop("[" + "0, " * 100, 201, "length") is not None


def test_a_nonsense_score_is_the_sum_of_its_contributions() -> None:
    found = find_nonsense(SALAD, 40)
    assert found.found
    assert found.score == pytest.approx(sum(found.contributions.values()), abs=0.02)
    assert {"bare", "uncommon"} <= found.contributions.keys()


@pytest.mark.parametrize(
    "text",
    [
        "Yes, you can.",
        "The rain in the hills was cold, and the men who came down from the farm had nothing to say about it to the guests.",
        "Il pleuvait depuis trois jours quand le facteur est enfin arrivé avec la lettre que tout le monde attendait.",
        "```python\nprint('mundaneBet'); enamelRoat(); tonsElectro = getattr(Monsanto, 'there')\n```",
        "See https://example.org/aGVsbG8gd29ybGQhIHRoaXMgaXMgYmFzZTY0IHRleHQ for the encoded text of the message that you sent.",
    ],
)
def test_sound_text_is_no_nonsense(text: str) -> None:
    assert not find_nonsense(text, len(text) // 4).found


def test_characters_that_no_text_has_are_nonsense_and_one_that_the_end_cut_is_not() -> None:
    text = "The tide comes in twice a day and the boats go out with it. "
    assert not find_nonsense(text + "\ufffd", 20).found
    assert find_nonsense(text + "\x0bard \x7f\ufffd \x0b\x0bice \ufffd of \x0b", 30).found


def test_punctuation_written_token_by_token_is_nonsense_and_a_drawn_line_is_not() -> None:
    line = "-" * 60 + "," * 20
    assert find_nonsense(line, 80).found
    assert not find_nonsense(line, 6).found


@given(st.text(max_size=400), st.integers(0, 1000), st.sampled_from(["stop", "length", None]))
def test_any_text_is_judged(text: str, tokens: int, reason: str | None) -> None:
    judged = judge_text(text, tokens, reason)
    assert judged.nonsense.score >= 0
    assert judged.loop is None or 0 <= judged.loop.begin < len(text)
