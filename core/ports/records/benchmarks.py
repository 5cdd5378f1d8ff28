"""Benchmarks: one row per run of a plan on a version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from core.benchmarks import Benchmark, BenchmarkState, Trigger
from core.ids import BenchmarkId, Digest, EndpointName, Epoch, SubmissionId, VersionId


class Benchmarks(Protocol):
    """Benchmarks: one row per run of a plan on a version. The samples lie elsewhere (`rows_uri`)."""

    def create(self, benchmark: Benchmark) -> Benchmark:
        """Store a new benchmark. The same id again keeps the first row and returns it."""
        ...

    def get(self, benchmark: BenchmarkId) -> Benchmark:
        """NotFound when unknown."""
        ...

    def find(
        self,
        *,
        endpoint: EndpointName | None = None,
        version: VersionId | None = None,
        plan: Digest | None = None,
        states: Iterable[BenchmarkState] = (),
        trigger: Trigger | None = None,
        submission: SubmissionId | None = None,
        limit: int = 100,
    ) -> tuple[Benchmark, ...]:
        """Return those that match, newest first. `plan` is a plan's key; empty `states` means all."""
        ...

    def store(self, benchmark: Benchmark, now: Epoch) -> Benchmark:
        """Store the row if its revision is still `benchmark.revision`; return it with the next one. Stale otherwise, NotFound.

        Its id, version, trigger, start, endpoint, submission and asker are not stored. An end state is never left (Stale).
        """
        ...

    def remove(self, benchmark: BenchmarkId) -> None:
        """Delete the row of a benchmark that has ended. Conflict while it runs. Removing it again does nothing."""
        ...
