"""Texts are in plain technical English: the constructions that docs/how-to/write-plain-english.md lists do not occur.

All rules apply to Markdown pages; the rules in `OF_PYTHON` also apply to docstrings and other texts in Python files.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LISTED = subprocess.run(["git", "ls-files", "*.md", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
_PAGES = [name for name in _LISTED if name.endswith(".md")]
MODULES = [name for name in _LISTED if name.endswith(".py") and not name.startswith("tests/")]
PAGES = [name for name in _PAGES if not name.startswith("tests/equipment/models/") and name != "docs/models.md"]
RULES: Final = {
    "mend": re.compile(r"\bmend(?:s|ed|ing)?\b", re.IGNORECASE),
    "anew": re.compile(r"\banew\b", re.IGNORECASE),
    "by itself": re.compile(r"\bby (?:itself|themselves)\b", re.IGNORECASE),
    "whoever": re.compile(r"\b(?:whoever|whatever it|whose they are|nobody)\b", re.IGNORECASE),
    "is no X": re.compile(r"\b(?:is|are) no (?!longer|more|worse\b)[a-z]+", re.IGNORECASE),
    "is away": re.compile(r"\b(?:is|are|was|were) away\b", re.IGNORECASE),
    "so long": re.compile(r"(?:^|[.:;] )So (?:long|old|far as)\b"),
    "what it was": re.compile(r"\bwhat (?:it|they) (?:is|are|was|were|has|have|had)\b", re.IGNORECASE),
    "a coined word": re.compile(r"\b(?:wish(?:es)?|keeper|standby|noticeboard|tether|lifeline)\b", re.IGNORECASE),
    "a program speaks": re.compile(r"\b(?:says|tells|knows|wants|believes)\b", re.IGNORECASE),
    "a value lies": re.compile(r"\b(?:lies|lie|stands) (?:in|at|below|above|from|between|under|beside|on)\b", re.IGNORECASE),
}
OF_PYTHON: Final = {
    **{name: RULES[name] for name in ("mend", "anew", "by itself", "whoever", "is away", "a coined word")},
    "is no X": re.compile(r"(?<!\bthere )" + RULES["is no X"].pattern, re.IGNORECASE),
}
ALLOWED: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("docs/how-to/write-plain-english.md", "*"),
        ("docs/sandbox.md", "nobody"),  # the system's user
        ("docs/cluster.md", "is no cloud"),
        ("docs/decisions/baselines-are-pinned-by-plan.md", "is no fallback"),
        ("serving/engines/files.py", "wish"),  # names of files that an earlier release wrote
        ("serving/engines/files.py", "keeper"),
        ("wiring/engines.py", "standby"),
        ("evals/sandbox/linux.py", "nobody"),  # the system's user
        ("evals/sandbox/zygote.py", "nobody"),  # the system's user
    }
)
"""(file, words) that may stay; `*` for a page that lists the constructions."""


def prose(page: str) -> list[tuple[int, str]]:
    """Return the lines of a page outside of code, with their numbers; inline code is blanked."""
    lines, fenced = [], False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            lines.append((number, re.sub(r"`[^`]*`", "`_`", line)))
    return lines


def texts(module: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a Python file's docstrings and other string literals, with their numbers; inline code is blanked."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for number, line in enumerate(node.value.splitlines(), node.lineno):
                yield number, re.sub(r"`[^`]*`", "`_`", line)


def found(name: str, lines: Iterable[tuple[int, str]], rules: dict[str, re.Pattern[str]]) -> list[str]:
    """Return each listed construction with its place."""
    return [
        f"{name}:{number}: {construction}: {match[0]}"
        for number, line in lines
        for construction, rule in rules.items()
        for match in rule.finditer(line)
        if (name, match[0]) not in ALLOWED and (name, "*") not in ALLOWED
    ]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_in_plain_english(page: str) -> None:
    assert found(page, prose(page), RULES) == []


def test_docstrings_and_messages_are_in_plain_english() -> None:
    assert [line for module in MODULES for line in found(module, texts(module), OF_PYTHON)] == []


@pytest.mark.parametrize("text", ["it is no float", "they are made anew", "shown to whoever asked", "the server is away", "the keeper"])
def test_a_construction_in_a_text_is_found(text: str) -> None:
    assert found("module.py", [(1, text)], OF_PYTHON) != []


def test_a_statement_of_absence_is_permitted() -> None:
    assert found("module.py", [(1, "there is no such suite; there are no answers; it is no longer served")], OF_PYTHON) == []


def test_the_allow_list_is_short() -> None:
    assert len(ALLOWED) <= 20
