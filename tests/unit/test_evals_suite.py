"""Suites and openings load whole or are refused with file and line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from core.errors import Refused
from evals.suite import SUITES, load_suite, openings

ROW = {"task_id": "t/0", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate(1)\n"}


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_our_suite_loads_by_its_name_and_its_digest_is_the_files() -> None:
    suite = load_suite("harbour")
    assert suite.name == "harbour"
    assert len(suite.problems) >= 40
    assert suite.digest == hashlib.sha256((SUITES / "harbour.jsonl").read_bytes()).hexdigest()


def test_suite_loads_by_its_path(tmp_path: Path) -> None:
    suite = load_suite(str(written(tmp_path, ROW, "", {**ROW, "task_id": "t/1", "canonical_solution": "    return x\n"})))
    assert suite.name == "own"
    assert [problem.task_id for problem in suite.problems] == ["t/0", "t/1"]
    assert suite.problems[1].canonical_solution == "    return x\n"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        ({**ROW, "task_id": "t/1", "prompt": ""}, "line 2 has no prompt"),
        ({**ROW, "task_id": 1}, "line 2 has no task_id"),
        ({key: ROW[key] for key in ("task_id", "prompt", "test")}, "line 2 has no entry_point"),
        ({**ROW, "task_id": "t/1", "entry_point": "f(x)"}, "the entry_point 'f\\(x\\)' is no name"),
        ({**ROW, "task_id": "t/1", "test": "assert f(1)"}, "defines no check"),
        (ROW, "the task_id 't/0' stands more than once"),
    ],
)
def test_broken_suite_is_refused_with_its_line(tmp_path: Path, row: object, fault: str) -> None:
    with pytest.raises(Refused, match=fault) as refusal:
        load_suite(str(written(tmp_path, ROW, row)))
    assert refusal.value.reason == "bad_suite"


def test_empty_suite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="it is empty"):
        load_suite(str(written(tmp_path)))


def test_unknown_suite_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused, match="harbour"):
        load_suite("nonesuch")


def test_openings_load() -> None:
    loaded = openings()
    assert len(loaded) >= 16
    assert all(len(opening.turns) == 2 for opening in loaded)


@pytest.mark.parametrize("row", [{"id": "a", "turns": []}, {"id": "a", "turns": [" "]}, {"turns": ["a"]}, {"id": "a", "turns": "a"}])
def test_broken_opening_is_refused(tmp_path: Path, row: object) -> None:
    with pytest.raises(Refused, match="line 1 has"):
        openings(written(tmp_path, row))
