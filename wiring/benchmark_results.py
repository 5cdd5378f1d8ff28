"""What the control API shows of benchmarks: stored answers and the statistics of `evals`, which `serving` does not import."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from core.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from core.benchmarks import Benchmark, Sample
    from registry.answers import Answers


class StoredBenchmarkResults:
    """`BenchmarkResults` on stored answers. Few are read at a time, so that many requests neither fill the memory nor delay other calls."""

    _AT_ONCE = 2
    _PATIENCE_S = 10.0

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._room = threading.BoundedSemaphore(self._AT_ONCE)

    def answers(self, benchmark: Benchmark) -> tuple[Sample, ...]:
        """Return a benchmark's samples. Transient while too many are read."""
        with self._turn():
            return self._answers.read(benchmark)

    def compare(self, candidate: Sequence[Sample], baseline: Sequence[Sample], margin: float) -> dict[str, Any]:
        """Return the paired comparison as JSON."""
        from evals.statistics import compare  # noqa: PLC0415 - numpy, which only this needs

        with self._turn():
            return compare(candidate, baseline, margin=margin).shown()

    def points(self, problems: int, samples: int, *, pass_rate: float | None, power: float) -> float:
        """Return how many points of a drop are caught."""
        from evals.statistics import detectable_points  # noqa: PLC0415

        return detectable_points(problems, samples, pass_rate=pass_rate, power=power)

    def samples(self, problems: int, points: float, *, pass_rate: float | None, power: float) -> int:
        """Return the least samples a problem that catch so many points."""
        from evals.statistics import samples_needed  # noqa: PLC0415

        return samples_needed(problems, points, pass_rate=pass_rate, power=power)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._room.acquire(timeout=self._PATIENCE_S):
            raise Transient("too many benchmarks are read at once", retry_after_s=2.0, hint="ask again in a moment")
        try:
            yield
        finally:
            self._room.release()
