"""Pages are in plain technical English: the constructions that docs/how-to/write-plain-english.md lists do not occur."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
PAGES = [name for name in _LISTED if not name.startswith("tests/equipment/models/") and name != "docs/models.md"]
RULES: Final = {
    "mend": re.compile(r"\bmend(?:s|ed|ing)?\b", re.IGNORECASE),
    "anew": re.compile(r"\banew\b", re.IGNORECASE),
    "by itself": re.compile(r"\bby (?:itself|themselves)\b", re.IGNORECASE),
    "whoever": re.compile(r"\b(?:whoever|whatever it|whose they are|nobody)\b", re.IGNORECASE),
    "is no X": re.compile(r"\b(?:is|are) no (?!longer|more|worse|evidence\b)[a-z]+", re.IGNORECASE),
    "is away": re.compile(r"\b(?:is|are|was|were) away\b", re.IGNORECASE),
    "so long": re.compile(r"(?:^|[.:;] )So (?:long|old|far as)\b"),
    "what it was": re.compile(r"\bwhat (?:it|they) (?:is|are|was|were|has|have|had)\b", re.IGNORECASE),
    "a program speaks": re.compile(r"\b(?:says|tells|knows|wants|believes)\b", re.IGNORECASE),
    "a value lies": re.compile(r"\b(?:lies|lie|stands) (?:in|at|below|above|from|between|under|beside|on)\b", re.IGNORECASE),
}
ALLOWED: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("docs/how-to/write-plain-english.md", "*"),
        ("docs/sandbox.md", "nobody"),  # the system's user
        ("docs/cluster.md", "is no cloud"),
        ("docs/decisions/baselines-are-pinned-by-plan.md", "is no fallback"),
    }
)
"""(page, words) that may stay; `*` for a page that lists the constructions."""


def prose(page: str) -> list[tuple[int, str]]:
    """Return the lines of a page outside of code, with their numbers; inline code is blanked."""
    lines, fenced = [], False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            lines.append((number, re.sub(r"`[^`]*`", "`_`", line)))
    return lines


def found(page: str) -> list[str]:
    """Return each listed construction with its place."""
    return [
        f"{page}:{number}: {name}: {match[0]}"
        for number, line in prose(page)
        for name, rule in RULES.items()
        for match in rule.finditer(line)
        if (page, match[0]) not in ALLOWED and (page, "*") not in ALLOWED
    ]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_in_plain_english(page: str) -> None:
    assert found(page) == []


def test_the_allow_list_is_short() -> None:
    assert len(ALLOWED) <= 20
