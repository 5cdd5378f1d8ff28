"""Generated programs, and what became of them in the sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Program:
    """Generated code with the check that judges it. Limits: CPU seconds, wall seconds, bytes of address space.

    `given` is the suite's own text at the beginning of `code` (the prompt). The check takes every name but the entry point from
    `given`, because the program may have replaced it.
    """

    id: str
    code: str
    check: str
    entry_point: str
    cpu_s: float = 3.0
    wall_s: float = 8.0
    memory_bytes: int = 512 * 1024 * 1024
    given: str = ""


class RunOutcome(StrEnum):
    """What became of a program. `sandbox_fault` is ours and never counts against a model; no program can cause it."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    SANDBOX_FAULT = "sandbox_fault"


@dataclass(frozen=True, slots=True)
class RunResult:
    """Outcome of one program; `detail` is the first failing line, at most 500 characters; `seconds` of wall time."""

    id: str
    outcome: RunOutcome
    detail: str
    seconds: float
    cpu_s: float = 0.0
    """CPU seconds of the program, 0 where they are not known."""
    isolation: str = ""
    """The level that was reached for this program, as the adapter names it: empty when no program ran."""
