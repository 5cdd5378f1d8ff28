"""Where generated code runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from core.programs import Program, RunResult


class Sandbox(Protocol):
    """Runs untrusted programs under limits. Adapter: child processes.

    A program computes and answers, no more: it writes no file, starts no process, reaches no network. Nothing that it does outlives
    `run`, and one program's fate does not touch another's. An exit status alone is never evidence of a pass.
    """

    def run(self, programs: Sequence[Program]) -> tuple[RunResult, ...]:
        """Run all and return their results in the same order."""
        ...
