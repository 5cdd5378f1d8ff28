"""A program's CPU limit follows from what the canonical solution takes on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from core.errors import Fault, Refused
from core.programs import Program, RunOutcome, RunResult
from evals.calibration import calibrate, cpu_limit
from evals.suites.suite import Problem

PROBLEM = Problem("p/1", "def f(x):\n", "f", "def check(candidate): assert candidate(1) == 1\n", "    return x\n")


class Said:
    """A sandbox that says the same of every program and remembers them."""

    def __init__(self, outcome: RunOutcome) -> None:
        self.outcome = outcome
        self.programs: list[Program] = []

    def run(self, programs: Sequence[Program]) -> tuple[RunResult, ...]:
        self.programs.extend(programs)
        return tuple(RunResult(program.id, self.outcome, "why", 0.5, cpu_s=0.25) for program in programs)


def test_canonical_solutions_are_measured_and_problems_without_one_left_out() -> None:
    sandbox = Said(RunOutcome.PASSED)
    without = replace(PROBLEM, task_id="p/2", canonical_solution="")
    assert calibrate(sandbox, [PROBLEM, without]) == {"p/1": 0.25}
    assert [(program.code, program.given) for program in sandbox.programs] == [("def f(x):\n    return x\n", "def f(x):\n")]


@pytest.mark.parametrize("outcome", [RunOutcome.FAILED, RunOutcome.TIMED_OUT])
def test_canonical_solution_that_does_not_pass_is_a_fault_of_the_suite(outcome: RunOutcome) -> None:
    with pytest.raises(Refused, match="p/1"):
        calibrate(Said(outcome), [PROBLEM])


def test_sandbox_that_cannot_judge_is_no_fault_of_the_suite() -> None:
    with pytest.raises(Fault, match="cannot judge"):
        calibrate(Said(RunOutcome.SANDBOX_FAULT), [PROBLEM])


@pytest.mark.parametrize(("canonical_s", "limit_s"), [(None, 1.0), (0.0, 1.0), (0.05, 1.0), (0.5, 5.0)])
def test_limit_is_the_factor_times_the_canonical_time_and_never_below_the_floor(canonical_s: float | None, limit_s: float) -> None:
    assert cpu_limit(canonical_s) == limit_s
