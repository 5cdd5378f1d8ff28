"""The benchmark asks, judges and scores; the gate holds the score against the stable version's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Fault, Transient
from core.ids import VersionId
from core.ports.clock import VirtualClock
from core.ports.sandbox import Program, RunOutcome, RunResult
from core.settings import TrialPolicy
from core.versions import Decision, TrialKind, TrialReport
from evals.benchmark import benchmark_key, gate_benchmark, run_benchmark
from evals.engine_client import EngineClient
from evals.sandbox import ProcessSandbox
from evals.statistics import paired_p, wilson
from evals.suite import Suite, load_suite
from tests.equipment.openai_server import Engine, Says, Script, engine_that

VERSION = VersionId("b" * 64)
POLICY = TrialPolicy()
LOOP = "    # and so on and so on" + " and so on" * 40


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    rows = [
        {
            "task_id": f"t/{number}",
            "prompt": f"def f{number}(x):\n",
            "entry_point": f"f{number}",
            "test": f"def check(candidate):\n    assert candidate(2) == {2 * number}\n",
            "canonical_solution": f"    return x * {number}\n",
        }
        for number in range(6)
    ]
    path = tmp_path / "six.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return load_suite(str(path))


def solves(suite: Suite, count: int, otherwise: str = "    return -1\n") -> Script:
    known = {problem.prompt: problem.canonical_solution for problem in suite.problems[:count]}
    return lambda _path, body: Says(known.get(body["prompt"], otherwise))


def ran(engine: Engine, suite: Suite, tmp_path: Path, clock: VirtualClock | None = None, **options: Any) -> TrialReport:
    with EngineClient(engine.address, VERSION) as client:
        return run_benchmark(
            client, suite, ProcessSandbox(2, tmp_path / "cells"), VERSION, concurrency=3, clock=clock or VirtualClock(), **options
        )


def test_score_is_the_part_of_problems_that_is_solved(suite: Suite, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []
    with engine_that(solves(suite, 4)) as engine:
        report = ran(engine, suite, tmp_path, progress=lambda part, text: told.append((part, text)))
    assert report.numbers["pass_at_1"] == pytest.approx(4 / 6)
    assert (report.numbers["solved"], report.numbers["problems"], report.numbers["loop_rate"]) == (4, 6, 0)
    assert (report.numbers["low"], report.numbers["high"]) == wilson(4, 6)
    assert [row["task_id"] for row in report.detail["rows"]] == [problem.task_id for problem in suite.problems]
    assert [row["outcome"] for row in report.detail["rows"]] == ["passed"] * 4 + ["failed"] * 2
    assert "assert candidate(2) == 8" in report.detail["rows"][4]["detail"]
    assert report.key == benchmark_key(suite) == f"six:{suite.digest[:16]}:greedy-v1"
    assert report.decision is Decision.INCONCLUSIVE
    assert told[-1] == (1.0, "6 of 6 problems, 4 solved")
    json.dumps(report.detail)


def test_prompts_are_sent_raw_and_greedy_with_the_stops(suite: Suite, tmp_path: Path) -> None:
    with engine_that(solves(suite, 6)) as engine:
        ran(engine, suite, tmp_path)
    assert {body["prompt"] for _, body in engine.asked} == {problem.prompt for problem in suite.problems}
    for path, body in engine.asked:
        assert path == "/v1/completions"
        assert (body["temperature"], body["max_tokens"]) == (0.0, 200)
        assert body["stop"] == ["\ndef ", "\nclass ", "\nif __name__", "\nprint("]


def test_answers_that_loop_are_counted(suite: Suite, tmp_path: Path) -> None:
    with engine_that(solves(suite, 3, LOOP)) as engine:
        report = ran(engine, suite, tmp_path)
    assert report.numbers["loop_rate"] == 0.5
    assert [row["looped"] for row in report.detail["rows"]] == [False] * 3 + [True] * 3


def test_engine_that_stumbles_is_asked_again_after_a_pause(suite: Suite, tmp_path: Path) -> None:
    failures = iter([503, 429, 500])
    script = solves(suite, 6)
    clock = VirtualClock()
    begin = clock.now()
    with engine_that(lambda path, body: Says(status=status) if (status := next(failures, 0)) else script(path, body)) as engine:
        report = ran(engine, suite, tmp_path, clock)
    assert report.numbers["solved"] == 6
    assert len(engine.asked) == 9
    assert clock.now() > begin


def test_engine_that_stays_away_ends_the_benchmark_as_transient(suite: Suite, tmp_path: Path) -> None:
    with engine_that(lambda _path, _body: Says(status=503)) as engine, pytest.raises(Transient):
        ran(engine, suite, tmp_path)
    assert len(engine.asked) <= 4 * len(suite.problems)


def test_prompt_that_the_engine_will_not_take_counts_as_unsolved(suite: Suite, tmp_path: Path) -> None:
    script = solves(suite, 6)
    long_one = suite.problems[2].prompt
    with engine_that(lambda path, body: Says("too long", 400) if body["prompt"] == long_one else script(path, body)) as engine:
        report = ran(engine, suite, tmp_path)
    assert report.numbers["solved"] == 5
    assert "too long" in report.detail["rows"][2]["detail"]


def test_answer_that_a_database_would_refuse_is_judged_as_it_is_and_stored_fit(suite: Suite, tmp_path: Path) -> None:
    with engine_that(lambda _path, _body: Says("    return '\0\ud800'\n")) as engine:
        report = ran(engine, suite, tmp_path)
    assert report.numbers["solved"] == 0
    assert report.detail["rows"][0]["completion"] == "    return '\ufffd\ufffd'\n"
    json.dumps(report.detail, ensure_ascii=False).encode()


class FaultySandbox:
    """A sandbox that faults on its first `faults` programs, then passes all."""

    def __init__(self, faults: int) -> None:
        self._faults = faults

    def run(self, programs: Sequence[Program]) -> tuple[RunResult, ...]:
        self._faults -= 1
        outcome = RunOutcome.SANDBOX_FAULT if self._faults >= 0 else RunOutcome.PASSED
        return tuple(RunResult(program.id, outcome, "no child process", 0.0) for program in programs)


def test_fault_of_the_sandbox_is_tried_again_and_never_counts_against_the_model(suite: Suite) -> None:
    with engine_that(solves(suite, 6)) as engine, EngineClient(engine.address, VERSION) as client:
        one = replace(suite, problems=suite.problems[:1])
        report = run_benchmark(client, one, FaultySandbox(1), VERSION, concurrency=1, clock=VirtualClock())
        assert report.numbers["pass_at_1"] == 1
        with pytest.raises(Fault, match="the sandbox cannot judge t/0"):
            run_benchmark(client, one, FaultySandbox(2), VERSION, concurrency=1, clock=VirtualClock())


def scored(solved: int, problems: int = 48, key: str = "s:1:greedy-v1", first: int = 0) -> TrialReport:
    low, high = wilson(solved, problems)
    passed = set(range(first, first + solved))
    rows = [{"task_id": str(n), "outcome": "passed" if n in passed else "failed"} for n in range(problems)]
    numbers = {"pass_at_1": solved / problems, "low": low, "high": high, "problems": problems, "solved": solved, "loop_rate": 0.0}
    return TrialReport(VERSION, TrialKind.BENCHMARK, key, Decision.INCONCLUSIVE, (), numbers, {"rows": rows})


def test_gate_refuses_a_candidate_that_is_worse_by_more_than_the_margin_with_both_scores() -> None:
    judged = gate_benchmark(scored(15), scored(45), POLICY)
    assert judged.decision is Decision.FAIL
    failure = judged.first_failure()
    assert failure is not None
    assert failure.name == "benchmark_below_stable"
    assert failure.reason == (
        "pass@1 0.31 [0.20, 0.45] is below the stable version's 0.94 [0.83, 0.98] by more than 0.05: 30 problems lost, 0 won"
    )
    assert failure.hint
    assert (judged.numbers["lost"], judged.numbers["won"]) == (30, 0)
    assert judged.numbers["paired_p"] < 1e-8


@pytest.mark.parametrize(("ours", "decision"), [(20, Decision.PASS), (19, Decision.PASS), (18, Decision.FAIL), (0, Decision.FAIL)])
def test_gates_margin_is_exact(ours: int, decision: Decision) -> None:
    assert gate_benchmark(scored(ours, 20), scored(20, 20), POLICY).decision is decision


def test_better_candidate_passes_and_the_report_keeps_its_numbers() -> None:
    judged = gate_benchmark(scored(45), scored(15), POLICY)
    assert judged.decision is Decision.PASS
    assert judged.first_failure() is None
    assert judged.numbers["stable_pass_at_1"] == 15 / 48
    assert judged.detail == scored(45).detail


@pytest.mark.parametrize(("solved", "decision"), [(24, Decision.PASS), (23, Decision.FAIL)])
def test_first_version_is_held_against_the_minimum(solved: int, decision: Decision) -> None:
    judged = gate_benchmark(scored(solved), None, replace(POLICY, min_score=0.5))
    assert judged.decision is decision
    assert judged.findings[0].name == ("benchmark_score" if decision is Decision.PASS else "benchmark_below_minimum")


def test_first_version_passes_whatever_its_score_by_default() -> None:
    assert gate_benchmark(scored(0), None, POLICY).decision is Decision.PASS


def test_scores_of_different_suites_are_not_compared() -> None:
    with pytest.raises(Fault, match="cannot be compared"):
        gate_benchmark(scored(1), scored(1, key="other:2:greedy-v1"), POLICY)


def test_gating_twice_gives_the_same() -> None:
    once = gate_benchmark(scored(15), scored(45), POLICY)
    assert gate_benchmark(once, scored(45), POLICY) == once


def test_wilson_interval_is_that_of_the_literature() -> None:
    low, high = wilson(81, 263)  # Newcombe, Statistics in Medicine 17 (1998), table I: 0.2553 to 0.3662
    assert [low, high] == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 20)[0] == 0
    assert wilson(20, 20)[1] == 1


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilson_interval_holds_the_proportion_and_is_symmetric(successes: int, failures: int) -> None:
    low, high = wilson(successes, successes + failures)
    assert 0 <= low <= high <= 1
    if successes + failures:
        assert low - 1e-12 <= successes / (successes + failures) <= high + 1e-12
    mirrored = wilson(failures, successes + failures)
    assert [low, high] == pytest.approx([1 - mirrored[1], 1 - mirrored[0]])


def test_paired_p_is_the_exact_sign_test() -> None:
    assert paired_p(0, 0) == 1
    assert paired_p(5, 0) == 1 / 32
    assert paired_p(3, 1) == 5 / 16
    assert paired_p(0, 9) == 1
