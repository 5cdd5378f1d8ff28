"""How much a program may use: by what the problem's canonical solution uses, on this machine and now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.ports.sandbox import Program, RunOutcome, Sandbox
from evals.suite import Problem

_TIMES = 10.0
_LEAST_CPU_S = 2.0
_MOST_CPU_S = 60.0
_WALL_OVER_CPU = 3.0


@dataclass(frozen=True, slots=True)
class Limit:
    """CPU seconds, and the wall seconds after which a program that waits is ended."""

    cpu_s: float
    wall_s: float


USUAL = Limit(cpu_s=3.0, wall_s=8.0)
"""Where no canonical solution passes."""


def calibrate(sandbox: Sandbox, problems: Sequence[Problem]) -> Mapping[str, Limit]:
    """Return the limits of each problem: ten times its canonical solution's CPU seconds, 2 to 60 s; of wall time three times that."""
    known = [problem for problem in problems if problem.canonical_solution]
    programs = [
        Program(
            p.task_id, p.prompt + p.canonical_solution, p.test, p.entry_point, cpu_s=_MOST_CPU_S / _TIMES, wall_s=2 * _MOST_CPU_S / _TIMES
        )
        for p in known
    ]
    results = sandbox.run(programs) if programs else ()
    measured = {one.id: _limit(one.cpu_s) for one in results if one.outcome is RunOutcome.PASSED}
    return {problem.task_id: measured.get(problem.task_id, USUAL) for problem in problems}


def _limit(cpu_s: float) -> Limit:
    allowed = min(_MOST_CPU_S, max(_LEAST_CPU_S, _TIMES * cpu_s))
    return Limit(allowed, _WALL_OVER_CPU * allowed)
