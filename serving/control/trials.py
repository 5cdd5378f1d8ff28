"""What the control API asks of the answers and of statistics: quick sums on stored rows. What takes long runs as a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from core.benchmarks import Benchmark, Sample


class Trials(Protocol):
    """Reads and compares. Errors: NotFound (no answers), Transient (too many requests at once, history unavailable), Fault, Refused."""

    def answers(self, benchmark: Benchmark) -> tuple[Sample, ...]:
        """Return a benchmark's samples."""
        ...

    def compare(self, candidate: Sequence[Sample], baseline: Sequence[Sample], margin: float) -> dict[str, Any]:
        """Return the paired comparison of two runs of one plan as JSON. Fault when they cannot be compared."""
        ...

    def points(self, problems: int, samples: int, *, pass_rate: float | None, power: float) -> float:
        """Return how many points of a drop are caught in the part `power` of cases."""
        ...

    def samples(self, problems: int, points: float, *, pass_rate: float | None, power: float) -> int:
        """Return the least samples a problem that catch so many points. Refused where none do."""
        ...
