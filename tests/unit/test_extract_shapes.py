"""Answers as models write them: a right program is found whatever surrounds it. The problem and all texts are this project's own."""

from __future__ import annotations

import textwrap
import time
from typing import Any

import pytest

from evals.harness.extract import extract, find_extractor

FENCE = "```"
PROMPT = '''from typing import List


def near_pair(depths: List[float], gap: float) -> bool:
    """Return whether two soundings are closer together than gap.
    >>> near_pair([4.0, 9.5], 1.0)
    False
    """
'''
SIGNATURE = "def near_pair(depths: List[float], gap: float) -> bool:\n"
BODY = """    for index, one in enumerate(depths):
        for other in depths[index + 1:]:
            if abs(one - other) < gap:
                return True
    return False
"""
RIGHT = SIGNATURE + BODY
WRONG = SIGNATURE + "    # compares neighbours only, which misses most pairs of a list that is not sorted\n    return len(depths) > 1\n"
CALLS_HELPER = SIGNATURE + "    return any(close(a, b, gap) for i, a in enumerate(depths) for b in depths[i + 1:])\n"
HELPER = "def close(a, b, gap):\n    return abs(a - b) < gap\n"
EXACT_HELPER = "import math\n" + HELPER.replace("abs", "math.fabs")


def fenced(code: str, fence: str = FENCE, language: str = "python") -> str:
    return f"{fence}{language}\n{code}{fence}"


def program(version: str, answer: str, stops: tuple[str, ...] = ()) -> str:
    return extract(version, prompt=PROMPT, answer=answer, entry_point="near_pair", stops=stops)


def solves(code: str) -> bool:
    """Run a program of this file as plain Python would."""
    names: dict[str, Any] = {}
    exec(compile(code, "answer", "exec", dont_inherit=True), names)
    near_pair = names["near_pair"]
    return near_pair([1.0, 7.0, 1.2], 0.5) is True and near_pair([1.0, 7.0], 0.5) is False and near_pair([2.0, 3.0], 0.5) is False


CHAT = {
    "no fence, prose around it": f"Sure, here's one way (it isn't fast):\n\nfrom typing import List\n\n{RIGHT}\nAll (pairs.\nIt's it.",
    "no fence, prose after it": f"{RIGHT}\nThis works.",
    "no fence, indented": "Here:\n\n" + textwrap.indent(RIGHT, "    ") + "\nDone.",
    "a thought with a wrong draft": f"<think>\nPerhaps\n{fenced(WRONG)}\nNo.</think>\n{fenced(RIGHT)}",
    "a thought whose draft is left open": f"Perhaps\n{FENCE}python\n{WRONG}\n</think>\n{fenced(RIGHT)}",
    "a corrected draft": f"{fenced(WRONG)}\nActually, that is wrong. Corrected:\n{fenced(RIGHT)}",
    "a wrong way last, announced": f"{fenced(RIGHT)}\nA wrong way would be:\n{fenced(WRONG)}\nGood luck.",
    "a wrong way last, named afterwards": f"{fenced(RIGHT)}\nOr:\n{fenced(WRONG)}\nThis one is incorrect for long lists.",
    "a broken draft last": f"{fenced(RIGHT)}\nOr:\n{fenced(SIGNATURE + '    return (')}",
    "CRLF": f"Here:\n{fenced(RIGHT)}\nDone.".replace("\n", "\r\n"),
    "an end token on the closing fence": fenced(RIGHT) + "<|endoftext|>",
    "an end token and another turn": fenced(RIGHT) + "<|im_end|>\n<|im_start|>user\nThanks",
    "text on the line of the closing fence": fenced(RIGHT) + " This works because it's complete.",
    "a closing fence after the last character": fenced(RIGHT.rstrip()),
    "a closing fence after a comment": fenced(RIGHT.rstrip() + "  # done"),
    "a fence in a numbered list": "1. Write:\n\n   " + textwrap.indent(fenced(RIGHT), "   ").lstrip() + "\n2. Enjoy.",
    "a fence as a list's item": "- " + textwrap.indent(fenced(RIGHT), "  ").lstrip(),
    "a future import first": fenced("from __future__ import annotations\n\n" + RIGHT),
    "four backticks": fenced(RIGHT, "````"),
    "tildes": fenced(RIGHT, "~~~") + "\nDone.",
    "tags": f"[PYTHON]\n{RIGHT}[/PYTHON]",
    "a byte-order mark": "\ufeff" + fenced(RIGHT),
    "a helper in a block of its own": f"First:\n{fenced(HELPER)}\nThen:\n{fenced(CALLS_HELPER)}",
    "a helper with an import, afterwards": f"{fenced(CALLS_HELPER)} with\n{fenced(EXACT_HELPER)}",
    "a fence in the docstring": fenced(f'{SIGNATURE}    """Compare.\n\n    {FENCE}\n    near_pair([], 1)\n    {FENCE}\n    """\n{BODY}')
    + "\nBye.",
    "a fence in the docstring's first column": fenced(f'{SIGNATURE}    """Compare.\n\n{FENCE}\nx\n{FENCE}\n    """\n{BODY}') + "\nBye.",
    "the body alone, dedented": textwrap.dedent(BODY),
    "the body alone, its first line dedented": BODY.lstrip(),
    "the body alone, fenced": fenced(textwrap.dedent(BODY)),
    "the body alone, fenced and indented": fenced(BODY, language=""),
    "a fence that opens after text": "Here: " + fenced(RIGHT),
    "a fence that is never closed": FENCE + "python\n" + RIGHT,
    "a fence that only the next one closes": f"{FENCE}python\n{RIGHT}\n{fenced('print(1)')}",
    "an assistant's turn first": "<|im_start|>assistant\n" + fenced(RIGHT),
    "wrong tests after it": fenced(RIGHT + "\nassert near_pair([1.0], 0) is None\nprint(near_pair(undefined))\n"),
    "results that are printed": fenced(RIGHT + "\nfound = near_pair(missing, 1)\nif found:\n    print(found)\n"),
    "a main function that asks the user": fenced(RIGHT + "\ndef main():\n    print(near_pair([float(input())], 1))\n\nmain()\n"),
    "a main block": fenced(RIGHT + "\nif __name__ == '__main__':\n    raise SystemExit(1)\n"),
    "an example after a usage fence": f"{fenced(RIGHT)}\nUse it:\n{fenced('print(near_pair([1, 2], 3))')}",
}


@pytest.mark.parametrize("answer", CHAT.values(), ids=CHAT.keys())
def test_a_right_function_is_found_in_a_chat_answer(answer: str):
    assert solves(program("chat-v2", answer))


TRAILING = (
    FENCE, f"{FENCE}\nThat is all.", f"{FENCE}python\nx", "<|endoftext|>", "<|endoftext|>Human: more?", "</s>", "@decorator\ndef g(): pass",
    "@decorator", "assert near_pair([], 1)", "import numpy_of_nobody", "from nowhere import x", "async def g():\n    pass",
    "for pair in undefined:\n    print(pair", "try:\n    undefined()", '"""', '"""\nText\n', "'''", "print (near_pair([1], 2)",
    "if(undefined):",
    "if(x", "This works, because it's complete.", "The (function\n    is right", "# Usage:\nprint(undefined)\nfoo bar", "def g(:",
    "class A:\n  broken", "while undefined: pass", "with undefined:", "Note: done", "1. It compares.", "    This sentence is indented.",
    '    """',
)  # fmt: skip


@pytest.mark.parametrize("trailing", TRAILING)
def test_what_follows_a_right_body_is_cut(trailing: str):
    assert solves(program("completion-v2", BODY + trailing))


@pytest.mark.parametrize("trailing", [FENCE, f"{FENCE}\nDone.", "<|endoftext|>", "<|im_end|>", "  # done" + FENCE])
def test_what_follows_a_right_body_on_its_last_line_is_cut(trailing: str):
    assert solves(program("completion-v2", BODY.rstrip() + trailing))


@pytest.mark.parametrize("answer", [RIGHT, fenced(RIGHT), textwrap.dedent(BODY), BODY.lstrip(), f"Sure!\n{fenced(RIGHT)}\nDone."])
def test_a_chat_models_answer_to_a_raw_prompt_is_read_as_in_a_chat(answer: str):
    assert solves(program("completion-v2", answer))


def test_lines_in_the_first_column_that_continue_a_statement_are_kept():
    body = '    table = """\n1 2\n"""\n    pairs = (\n1,\n)\n' + BODY
    assert solves(program("completion-v2", body + "Done."))


def test_a_comment_in_the_first_column_does_not_end_a_body():
    assert solves(program("completion-v2", "# compare all pairs\n" + BODY))


def test_stops_of_the_plan_cut_first():
    assert program("completion-v2", "    return 1\n# END\n    return 2\n", ("\n# END",)) == PROMPT + "    return 1"


@pytest.mark.parametrize("version", ["completion-v2", "chat-v2"])
@pytest.mark.parametrize("answer", ["I cannot do that.", "tide tide wharf, the of", "", FENCE])
def test_what_is_no_program_stays_no_program(version: str, answer: str):
    code = program(version, answer)
    assert answer in code


def test_statements_that_prepare_the_function_are_kept():
    answer = (
        "import sys\nsys.setrecursionlimit(5000)\nTABLE = {}\nfor n in range(3):\n    TABLE[n] = n\n"
        + RIGHT
        + "near_pair = staticmethod(near_pair)\n"
    )
    found = program("chat-v2", fenced(answer + "print(near_pair([], 1))\n"))
    assert all(line in found for line in ("setrecursionlimit", "TABLE[n] = n", "staticmethod"))
    assert "print" not in found


def test_the_prompts_helpers_come_before_the_answer():
    prompt = "import math\n\n\ndef area(r):\n    return math.pi * r\n\n\ndef f(x):\n    '''Double the area.'''\n"
    found = extract("chat-v2", prompt=prompt, answer=fenced("def f(x):\n    return 2 * area(x)\n"), entry_point="f")
    assert found == "import math\n\n\ndef area(r):\n    return math.pi * r\n\n\ndef f(x):\n    return 2 * area(x)\n"


def test_a_function_of_another_name_that_begins_alike_is_not_the_entry_point():
    answer = f"{fenced(RIGHT)}\nTests:\n{fenced('def near_pair_test():' + chr(10) + '    assert False' + chr(10))}"
    assert solves(program("chat-v2", answer))


HOSTILE = {
    "fences": FENCE + "\n", "python fences": FENCE + "python\n", "backticks": "`", "tildes": "~", "lines of tildes": "~~~\n", "quotes": "'",
    "quotes apart": "' ", "strings across fences": f'{FENCE}\n"""\n', "both strings": f"{FENCE}\n\"\"\"\n'''\n", "end tokens": "<|im_end|>",
    "blanks": " ", "lines": "\n", "brackets": "(", "functions without a body": "def f(x):\n", "functions": "def f(x):\n    return 1\n",
    "blocks": f"{FENCE}\ndef f(x):\n    return 1\n{FENCE}\n", "open blocks": f"{FENCE}python\ndef f(x):\n", "backslashes": "\\",
    "thoughts": "</think>", "tags": "[PYTHON]def f(x): return 1[/PYTHON]", "decorators": "@a\n", "lists": "1. ",
    "verdicts": "that is wrong ",
    "broken bodies": "    x = (\n", "prose": "    this is prose\n", "assignments": "a=b\n", "comments": "#", "carriage returns": "\r",
}  # fmt: skip


@pytest.mark.parametrize("version", ["completion-v2", "chat-v2"])
@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_megabyte_of_hostile_text_takes_linear_time(version: str, piece: str):
    text = piece * ((1 << 20) // len(piece))
    began = time.process_time()
    extract(version, prompt="def f(x):\n    '''Double.'''\n", answer=text, entry_point="f")
    assert time.process_time() - began < 12, "quadratic work on 1 MB takes minutes; linear work took at most 4 s on a busy machine"


def test_one_quoted_line_of_end_tokens_takes_linear_time():
    began = time.process_time()
    program("chat-v2", '"' + "<|im_end|>" * 100_000)
    assert time.process_time() - began < 12


def test_deep_nesting_breaks_nothing():
    for nested in ("[" * 90_000, "-" * 90_000 + "1", "lambda: " * 10_000 + "0", "f'{" * 30_000, "f(" * 90 + ")" * 90):
        assert isinstance(program("chat-v2", fenced(SIGNATURE + f"    return {nested}\n")), str)


DOUBLE = "```python\ndef double(numbers):\n    return [2 * n for n in numbers]\n```\n"
AFTERWARDS = DOUBLE + "Tests:\n```python\nfrom your_module import double\nprint(double([1]))\n```\n"
MISTAKE = DOUBLE + "A common mistake is:\n```python\ndef double(numbers):\n    return 2 * numbers\n```"
COUNTED = """```python
def double(numbers):
    double.calls += 1
    return [2 * n for n in numbers]

double.calls = 0
print(double([1]))
```"""
AGAIN = "```python\ndef double(numbers):\n    return [2 * numbers[0], *again(numbers[1:])] if numbers else []\n\nagain = double\n```"


@pytest.mark.parametrize("answer", [AFTERWARDS, COUNTED, MISTAKE, AGAIN])
def test_what_surrounds_a_right_function_neither_replaces_nor_robs_it(answer: str) -> None:
    program = find_extractor("chat-v2")("", answer, "double", ())
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["double"]([1, 2]) == [2, 4]


@pytest.mark.parametrize(
    "answer", ["```python\n    return [2 * n for n in numbers]\n```", "```python\nreturn [2 * n for n in numbers]\n```"]
)
def test_a_fenced_body_completes_the_prompt(answer: str) -> None:
    names: dict[str, Any] = {}
    exec(find_extractor("completion-v2")("def double(numbers):\n", answer, "double", ("```",)), names)
    assert names["double"]([1, 2]) == [2, 4]
