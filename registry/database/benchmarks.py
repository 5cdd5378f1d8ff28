"""Benchmarks: how versions did on suites."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, or_, select, update

from core.benchmarks import Benchmark, BenchmarkState, Plan, Trigger
from core.errors import Conflict, NotFound, Stale
from core.ids import BenchmarkId, Digest, EndpointName, Epoch, SubmissionId, VersionId
from core.reasons import Reason
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.tables import benchmarks
from registry.database.upsert import insert_new

_FIXED = frozenset({"id", "version", "trigger", "started_at", "endpoint", "submission", "asked_by"})
_ENDS = [state for state in BenchmarkState if state is not BenchmarkState.RUNNING]


class BenchmarksTable:
    """Implements `Benchmarks`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def create(self, benchmark: Benchmark) -> Benchmark:
        """Enter one, or return the one of its id."""
        row = plain(benchmark) | _planned(benchmark.plan)
        row["updated_at"] = benchmark.updated_at or benchmark.started_at
        with self._connections.write() as connection:
            insert_new(connection, benchmarks, [row])
            return _get(connection, benchmark.id)

    def get(self, benchmark: BenchmarkId) -> Benchmark:
        """Return it."""
        with self._connections.read() as connection:
            return _get(connection, benchmark)

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
        """Return those that match, newest first."""
        query = select(benchmarks).order_by(benchmarks.c.started_at.desc(), benchmarks.c.id.desc()).limit(limit)
        asked = {"endpoint": endpoint, "version": version, "plan_key": plan, "trigger": trigger, "submission": submission}
        for name, value in asked.items():
            if value is not None:
                query = query.where(benchmarks.c[name] == value)
        if wanted := list(states):
            query = query.where(benchmarks.c.state.in_(wanted))
        with self._connections.read() as connection:
            return tuple(_benchmark(row) for row in connection.execute(query).mappings())

    def store(self, benchmark: Benchmark, now: Epoch) -> Benchmark:
        """Store the row if its revision is still the one that was read."""
        mine = benchmarks.c
        values = {name: value for name, value in plain(benchmark).items() if name not in _FIXED} | _planned(benchmark.plan)
        values |= {"updated_at": now, "revision": benchmark.revision + 1}
        stays = or_(mine.state.not_in(_ENDS), mine.state == benchmark.state)
        query = update(benchmarks).where(mine.id == benchmark.id, mine.revision == benchmark.revision, stays).values(**values)
        with self._connections.write() as connection:
            stored = connection.execute(query).rowcount
            row = _get(connection, benchmark.id)
        if not stored:
            raise Stale(f"benchmark {row.id} is at revision {row.revision} ({row.state}), not {benchmark.revision}")
        return row

    def remove(self, benchmark: BenchmarkId) -> None:
        """Delete the row of one that has ended."""
        ended = (benchmarks.c.id == benchmark) & (benchmarks.c.state != BenchmarkState.RUNNING)
        with self._connections.write() as connection:
            connection.execute(delete(benchmarks).where(ended))
            if connection.execute(select(benchmarks.c.id).where(benchmarks.c.id == benchmark)).one_or_none() is not None:
                raise Conflict(f"benchmark {benchmark} is running", hint="wait for its end, or cancel it")


def _planned(plan: Plan) -> dict[str, Any]:
    return {"plan": plain(plan), "plan_key": plan.key, "suite": plan.suite}


def _get(connection: Connection, benchmark: BenchmarkId) -> Benchmark:
    row = connection.execute(select(benchmarks).where(benchmarks.c.id == benchmark)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no benchmark {benchmark[:64]}", reason=Reason.NO_BENCHMARK, hint="`seatrial bench list` lists them")
    return _benchmark(row)


def _benchmark(row: RowMapping) -> Benchmark:
    return restore(Benchmark, row)
