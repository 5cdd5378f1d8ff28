"""How much CPU time a problem takes here, measured on its canonical solution: what a program's limit is scaled to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from core.errors import Fault, Refused
from core.ports.sandbox import Sandbox
from core.programs import Program, RunOutcome, RunResult
from core.reasons import Reason
from evals.suites.suite import Problem

FACTOR = 10.0
FLOOR_S = 1.0
_GENEROUS_S = 30.0
_WALL_S = 60.0


def calibrate(sandbox: Sandbox, problems: Iterable[Problem]) -> Mapping[str, float]:
    """Return the CPU seconds of each canonical solution under its check, by task_id; a problem without a solution is left out.

    Raises Refused (`bad_suite`) when a canonical solution does not pass, Fault when the sandbox cannot judge.
    """
    solved = [problem for problem in problems if problem.canonical_solution.strip()]
    results = sandbox.run([_program(problem) for problem in solved])
    for result in results:
        _hold(result)
    return {result.id: result.cpu_s for result in results}


def cpu_limit(canonical_s: float | None, *, factor: float = FACTOR, floor_s: float = FLOOR_S) -> float:
    """Return the limit in CPU seconds for a program: `max(floor_s, factor * canonical_s)`, the floor where nothing is known."""
    return max(floor_s, factor * (canonical_s or 0.0))


def _program(problem: Problem) -> Program:
    code = problem.prompt + problem.canonical_solution
    program = Program(problem.task_id, code, problem.test, problem.entry_point, given=problem.prompt)
    return replace(program, cpu_s=_GENEROUS_S, wall_s=_WALL_S)


def _hold(result: RunResult) -> None:
    if result.outcome is RunOutcome.SANDBOX_FAULT:
        raise Fault(f"the sandbox cannot judge the canonical solution of {result.id}: {result.detail}", hint="docs/sandbox.md")
    if result.outcome is not RunOutcome.PASSED:
        raise Refused(
            f"the canonical solution of {result.id} does not pass its own test: {result.outcome}, {result.detail}",
            reason=Reason.BAD_SUITE,
            hint="correct the problem, or remove its canonical_solution",
        )
