"""The stored answers of benchmarks and short statistics on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from core.benchmarks import Benchmark, Sample


class BenchmarkResults(Protocol):
    """Reads answers and compares runs. Longer work runs as a flow.

    Errors: NotFound (no answers), Transient (too many requests at once, history unavailable), Fault, Refused.
    """

    def answers(self, benchmark: Benchmark) -> tuple[Sample, ...]:
        """Return a benchmark's samples."""
        ...

    def compare(self, candidate: Sequence[Sample], baseline: Sequence[Sample], margin: float) -> dict[str, Any]:
        """Return the paired comparison of two runs of one plan as JSON. Fault when they cannot be compared."""
        ...

    def points(self, problems: int, samples: int, *, pass_rate: float | None, power: float) -> float:
        """Return the smallest drop, in percentage points, that is detected with the statistical power `power`."""
        ...

    def samples(self, problems: int, points: float, *, pass_rate: float | None, power: float) -> int:
        """Return the smallest number of samples per problem that detects such a drop. Refused where no number does."""
        ...
