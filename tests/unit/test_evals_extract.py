"""Extractors find the program in an answer, whatever stands around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Refused
from evals.harness.extract import EXTRACTORS, extract
from evals.harness.seeds import seeds

PROMPT = "from typing import List\n\n\ndef f(x):\n    '''Double.'''\n"


def chat(answer: str, prompt: str = PROMPT) -> str:
    return extract("chat-v1", prompt=prompt, answer=answer, entry_point="f")


def test_completion_continues_the_prompt_up_to_the_first_stop():
    program = extract(
        "completion-v1", prompt=PROMPT, answer="    return 2\nprint(1)\ndef g(): ...", entry_point="f", stops=("\ndef ", "\nprint(")
    )
    assert program == PROMPT + "    return 2"


def test_completion_without_a_stop_is_whole():
    assert extract("completion-v1", prompt="a", answer="b", entry_point="f") == "ab"


def test_block_that_defines_the_function_is_taken_with_the_prompts_imports():
    answer = "First:\n```python\ndef g(x):\n    return x + 100000 + 100000\n```\nthen\n```python\ndef f(x):\n    return 2 * x\n```\nDone."
    assert chat(answer) == "from typing import List\n\n\ndef f(x):\n    return 2 * x\n"


def test_longest_defining_block_wins_and_the_last_of_equals():
    short, long, last = ("def f(x): return 1\n", "def f(x):\n    return 22222\n", "def f(x):\n    return 33333\n")
    assert chat("".join(f"```\n{block}```\n" for block in (short, long, last)), "def f(x):\n") == last


def test_block_that_is_cut_ends_with_the_answer():
    assert chat("Here:\n```python\ndef f(x):\n    return", "def f(x):\n") == "def f(x):\n    return"


def test_answer_without_a_fence_is_the_program():
    assert chat("def f(x):\n    return 2", "def f(x):\n") == "def f(x):\n    return 2"


def test_body_alone_is_joined_to_the_prompt():
    assert chat("```python\n    return 2 * x\n```") == PROMPT + "    return 2 * x\n"


def test_prose_stays_prose():
    assert chat("I cannot.") == "I cannot."


def test_unknown_extractor_is_refused_with_the_known_ones():
    with pytest.raises(Refused, match="completion-v1, completion-v2, chat-v1, chat-v2"):
        extract("v9", prompt="", answer="", entry_point="f")


@given(st.sampled_from(sorted(EXTRACTORS)), st.text(), st.text())
def test_every_answer_gives_some_text(version: str, prompt: str, answer: str):
    assert isinstance(extract(version, prompt=prompt, answer=answer, entry_point="f"), str)


def test_no_two_seeds_are_equal_and_more_samples_keep_those_there_were():
    few = seeds(0, [(f"t/{n}", "t0.8", index) for n in range(164) for index in range(10)])
    many = seeds(0, [(f"t/{n}", point, index) for n in range(164) for point in ("t0.8", "t0.2") for index in range(20)])
    assert len(set(many.values())) == 164 * 2 * 20
    assert all(many[identity] == seed for identity, seed in few.items())
    assert all(0 <= seed < 1 << 53 for seed in many.values())


def test_another_plans_seed_gives_other_seeds():
    one = [("t/0", "t0", 0)]
    assert seeds(0, one) != seeds(1, one)
