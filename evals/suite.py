"""Suites of programming problems in HumanEval's format, and openings of synthetic conversations."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import Refused
from core.ids import Digest

SUITES = Path(__file__).with_name("suites")
_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}")
_FIELDS = ("task_id", "prompt", "entry_point", "test")
_MAX_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem (Chen et al., Evaluating Large Language Models Trained on Code, 2021): `test` defines `check(candidate)`."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """Problems under a name. `digest` is the sha256 of the file: scores are comparable when it is equal."""

    name: str
    digest: Digest
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """What a synthetic user says, turn by turn."""

    id: str
    turns: tuple[str, ...]


def load_suite(name: str) -> Suite:
    """Load a suite by its name (a file in evals/suites) or by its path. Raises Refused and names the file, the line and the fault."""
    path = SUITES / f"{name}.jsonl" if _NAME.fullmatch(name) else Path(name)
    raw = _read(path, name)
    problems = tuple(_problem(row, path, number) for number, row in _rows(raw, path))
    twice = [task_id for task_id, times in Counter(problem.task_id for problem in problems).items() if times > 1]
    if twice:
        raise _bad(path, f"the task_id {twice[0][:80]!r} stands more than once")
    return Suite(path.stem, Digest(hashlib.sha256(raw).hexdigest()), problems)


def openings(path: Path = SUITES / "conversations.jsonl") -> tuple[Opening, ...]:
    """Load the openings of synthetic conversations. Raises Refused as `load_suite` does."""
    return tuple(_opening(row, path, number) for number, row in _rows(_read(path, path.name), path))


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in SUITES.glob("*.jsonl") if file.stem != "conversations"))
        raise Refused(
            f"suite {name[:200]!r} cannot be read: {error.strerror}", reason="bad_suite", hint=f"give a path or one of: {known}"
        ) from error
    if len(raw) > _MAX_BYTES:
        raise _bad(path, f"it is larger than {_MAX_BYTES} bytes")
    return raw


def _rows(raw: bytes, path: Path) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad(path, f"line {number} is not JSON: {str(error)[:100]}") from error
        if not isinstance(row, dict):
            raise _bad(path, f"line {number} is not a JSON object")
        rows.append((number, row))
    if not rows:
        raise _bad(path, "it is empty")
    return rows


def _problem(row: dict[str, Any], path: Path, number: int) -> Problem:
    for field in _FIELDS:
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise _bad(path, f"line {number} has no {field}")
    if not row["entry_point"].isidentifier():
        raise _bad(path, f"line {number}: the entry_point {row['entry_point'][:80]!r} is no name")
    if "def check(" not in row["test"]:
        raise _bad(path, f"line {number}: its test defines no check(candidate)")
    return Problem(row["task_id"], row["prompt"], row["entry_point"], row["test"], str(row.get("canonical_solution", "")))


def _opening(row: dict[str, Any], path: Path, number: int) -> Opening:
    turns = row.get("turns")
    if not isinstance(row.get("id"), str) or not isinstance(turns, list) or not turns:
        raise _bad(path, f"line {number} has no id and turns")
    if not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise _bad(path, f"line {number} has an empty turn")
    return Opening(row["id"], tuple(turns))


def _bad(path: Path, what: str) -> Refused:
    return Refused(f"{path} is no suite: {what}", reason="bad_suite", hint="mend the file; evals/README.md says what a line holds")
