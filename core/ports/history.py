"""Where benchmarks are browsed over time (MLflow)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.benchmarks import Benchmark


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where a benchmark can be looked at: its page, and the address of its packed rows."""

    page: str
    rows_uri: str


class BenchmarkHistory(Protocol):
    """Curves over time and the rows of every run. The truth is in `Records`; this mirrors it. Errors: Transient, Fault."""

    def record(self, benchmark: Benchmark, model: str, curves: Mapping[str, float], files: Mapping[str, Path], *, order: int) -> Recorded:
        """Enter a benchmark with its parameters, numbers and files (by name), and a point on the curves of its endpoint and suite.

        The entry has the state, start and end of the row; `model` is the version's name for people. `order` is its place on the curves
        (0 is the first). The same benchmark again writes over its entry and adds no second point, also when its end moved.
        """
        ...

    def fetch(self, uri: str, into: Path) -> None:
        """Write what lies at a `rows_uri` to a file. NotFound when it is gone."""
        ...

    def forget(self, benchmark: Benchmark) -> None:
        """Remove a benchmark's entry and files; its point on the curves stays. Forgetting what is gone does nothing."""
        ...

    def compact(self) -> bool:
        """Give back the space of forgotten entries, where that takes a step of its own; return whether it was taken."""
        ...
