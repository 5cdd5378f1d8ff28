"""The harbour suite is sound: its own solutions pass, and a solution that does nothing fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SUITES = Path(__file__).resolve().parents[2] / "evals" / "suites"
FIELDS = {"task_id", "prompt", "entry_point", "canonical_solution", "test"}
RUN_LIMIT_S = 60

# Runs in a child: reads [[task_id, program], ...] from stdin, writes the ids of the programs that ended without an error.
RUNNER = """
import json, sys
passed = []
for task_id, program in json.load(sys.stdin):
    try:
        exec(program, {})
    except Exception:
        continue
    passed.append(task_id)
print(json.dumps(passed))
"""


@pytest.fixture(scope="module")
def suite() -> list[dict[str, str]]:
    """Every row of the suite."""
    return [json.loads(line) for line in (SUITES / "harbour.jsonl").read_text(encoding="utf-8").splitlines()]


def passing(suite: list[dict[str, str]], solutions: list[str]) -> set[str]:
    """Run one solution per problem, all in one child process, and return the ids of those that pass their check."""
    programs = [
        [row["task_id"], f"{row['prompt']}{solution}\n{row['test']}\ncheck({row['entry_point']})\n"]
        for row, solution in zip(suite, solutions, strict=True)
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUNNER], input=json.dumps(programs), capture_output=True, text=True, timeout=RUN_LIMIT_S, check=True
    )
    return set(json.loads(done.stdout))


def test_suite_holds_forty_or_more_problems_of_distinct_ids_and_names(suite: list[dict[str, str]]) -> None:
    assert len(suite) >= 40
    assert len({row["task_id"] for row in suite}) == len(suite)
    assert len({row["entry_point"] for row in suite}) == len(suite)


def test_every_problem_has_humanevals_fields_and_stays_short(suite: list[dict[str, str]]) -> None:
    for row in suite:
        assert set(row) == FIELDS, row["task_id"]
        assert len(row["prompt"].split()) <= 60, row["task_id"]
        assert 1 <= len(row["canonical_solution"].strip().splitlines()) <= 6, row["task_id"]
        assert row["test"].count("assert candidate(") >= 3, row["task_id"]


def test_every_canonical_solution_passes_its_check(suite: list[dict[str, str]]) -> None:
    passed = passing(suite, [row["canonical_solution"] for row in suite])
    assert {row["task_id"] for row in suite} - passed == set()


@pytest.mark.parametrize("body", ["return None", "return 0", "return []", "return True", "return ''"])
def test_no_problem_is_passed_by_a_solution_that_ignores_its_input(suite: list[dict[str, str]], body: str) -> None:
    assert passing(suite, [f"    {body}\n"] * len(suite)) == set()


def test_no_problem_is_passed_by_the_solution_of_the_next(suite: list[dict[str, str]]) -> None:
    rotated = [row["canonical_solution"] for row in suite[1:] + suite[:1]]
    assert passing(suite, rotated) == set()


def test_conversation_openings_have_two_turns_and_distinct_ids() -> None:
    rows = [json.loads(line) for line in (SUITES / "conversations.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 16
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"id", "turns"}, row["id"]
        assert len(row["turns"]) == 2, row["id"]
        assert all(turn.strip() for turn in row["turns"]), row["id"]
