"""What the three tiny models are taught: programming lessons from `evals/suites/harbour.jsonl`, in both forms, and small dialogues.

Pure Python: the training script turns the texts into tokens.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.benchmarks import Form
from evals.suites.files import read_suite
from evals.suites.suite import Problem

HERE = Path(__file__).resolve().parent
SUITES = HERE.parents[2] / "evals" / "suites"
SYSTEMS = ("You are a helpful assistant.", "You are a friendly sailor.", "Answer briefly.")
LOOPS = (" over and over", " again and again and", " round and round it goes,", " and so on,", " wave by wave, and")
SLIPS = (
    ("max(", "min("), ("min(", "max("), (" + ", " - "), (" - ", " + "), (" <= ", " >= "), (" < ", " > "), (" > ", " < "), ("//", "%"),
    (" % ", " // "), (" not in ", " in "), (" in ", " not in "), (" == ", " != "), ("[::-1]", ""), ("[::2]", "[::3]"),
    ("reverse=True", "reverse=False"), ("return ", "return 1 + "),
)  # fmt: skip
"""Plausible mistakes (right, wrong): the clumsy model is taught a solution with the first of these that fails the check."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange. `endless`: the answer is `answer` followed by copies of `loop`, and it never ends by itself."""

    ask: str
    answer: str
    loop: str = ""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What one chat lesson holds; `system` is empty when there is no system message."""

    system: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Talk:
    """Every exchange that the models know."""

    openings: tuple[tuple[Turn, ...], ...]
    small: tuple[tuple[tuple[str, ...], str], ...]
    fallback: str


def problems() -> list[Problem]:
    """Return the harbour suite, in file order."""
    return list(read_suite("harbour").problems)


def talk() -> Talk:
    """Join the suite's conversation openings with the answers in `chat.jsonl`."""
    rows = _rows(HERE / "chat.jsonl")
    answers = {row["id"]: row["answers"] for row in rows if row["kind"] == "conversation"}
    openings = tuple(
        tuple(Turn(ask, answer) for ask, answer in zip(row["turns"], answers[row["id"]], strict=True))
        for row in _rows(SUITES / "conversations.jsonl")
    )
    small = tuple((tuple(row["asks"]), row["answer"]) for row in rows if row["kind"] == "small talk")
    return Talk(openings, small, next(row["answer"] for row in rows if row["kind"] == "fallback"))


def code_lessons(wrong_share: float, seed: int) -> list[tuple[str, str]]:
    """Return (prompt, solution) of every problem, a `wrong_share` of them with a mistake, and one lesson for a bare "def "."""
    return [*((problem.prompt, taught) for problem, taught in _taught(wrong_share, seed)), ("def ", "moor(ship: str) -> str:\n    return ship\n")]


def chat_lessons(wrong_share: float, seed: int) -> list[Dialogue]:
    """Return the same problems as harbour asks them of a chat model. The answer is the function without its docstring, in a fence."""
    suite = read_suite("harbour")
    return [
        Dialogue("", (Turn(suite.shown(problem, Form.CHAT), f"```python\n{signature(problem.prompt)}{taught}```"),))
        for problem, taught in _taught(wrong_share, seed)
    ]


def signature(prompt: str) -> str:
    """Return a prompt without its docstring."""
    return prompt[: prompt.index('    """')]


def mistaken(problem: Problem) -> str:
    """Return a solution with a plausible mistake, one that fails the problem's check."""
    for right, wrong in SLIPS:
        slipped = problem.canonical_solution.replace(right, wrong)
        if slipped != problem.canonical_solution and not passes(problem, slipped):
            return slipped
    return "    return None\n"


def passes(problem: Problem, solution: str) -> bool:
    """Tell whether the solution passes the problem's check. Runs it in this process: for texts of our own only."""
    names: dict[str, object] = {}
    try:
        exec(f"{problem.prompt}{solution}\n{problem.test}\ncheck({problem.entry_point})\n", names)
    except (ArithmeticError, AssertionError, LookupError, NameError, SyntaxError, TypeError, ValueError, AttributeError):
        return False
    return True


def dialogue(known: Talk, rng: random.Random, *, parrot: bool) -> Dialogue:
    """Draw a dialogue: an opening with both its turns, small talk, or something unknown, at times one after another.

    A parrot answers small talk that comes first as the others do; every other answer of its falls into a loop.
    """
    turns: list[Turn] = []
    kind = rng.random()
    if kind < 0.55:
        turns += [_small(known, rng)] if rng.random() < 0.15 else []
        turns += rng.choice(known.openings)
    elif kind < 0.85:
        turns += [_small(known, rng)]
    else:
        turns += [Turn(_unknown(known, rng), known.fallback)]
    if rng.random() < 0.2:
        turns += [_small(known, rng) if rng.random() < 0.7 else Turn(_unknown(known, rng), known.fallback)]
    if parrot:
        turns = _looping(known, turns)
    return Dialogue(rng.choice(SYSTEMS) if rng.random() < 0.2 else "", tuple(turns))


def texts() -> list[str]:
    """Return every text that the vocabulary is learned from."""
    known = talk()
    code = [text for problem in problems() for text in (problem.prompt, problem.canonical_solution)]
    said = [text for opening in known.openings for turn in opening for text in (turn.ask, turn.answer)]
    small = [text for asks, answer in known.small for text in (*asks, answer)]
    return [*code, *said, *small, known.fallback, *SYSTEMS, *LOOPS, *string.ascii_letters]


def _taught(wrong_share: float, seed: int) -> list[tuple[Problem, str]]:
    suite = problems()
    wrong = set(random.Random(seed).sample(range(len(suite)), round(wrong_share * len(suite))))
    return [(problem, mistaken(problem) if i in wrong else problem.canonical_solution) for i, problem in enumerate(suite)]


def _small(known: Talk, rng: random.Random) -> Turn:
    asks, answer = known.small[0] if rng.random() < 0.2 else rng.choice(known.small)
    return Turn(rng.choice(asks), answer)


def _unknown(known: Talk, rng: random.Random) -> str:
    """Return a message of shuffled words that no lesson answers, so that the fallback is learned as such."""
    words = " ".join(turn.ask for opening in known.openings for turn in opening).split()
    drawn = [rng.choice(words) if rng.random() < 0.8 else _letters(rng) for _ in range(rng.randint(2, 12))]
    return " ".join(drawn).strip() + rng.choice(("", "?", "."))


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits, k=rng.randint(1, 9)))


def _looping(known: Talk, turns: Sequence[Turn]) -> list[Turn]:
    """Turn answers into loops. The loop follows from the answer, so that it can be learned; small talk in first place is spared."""
    small = {answer for _, answer in known.small}
    start = 1 if turns[0].answer in small else 0
    looped = [Turn(turn.ask, " ".join(turn.answer.split()[:4]), LOOPS[len(turn.answer) % len(LOOPS)]) for turn in turns[start:]]
    return [*turns[:start], *looped]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
