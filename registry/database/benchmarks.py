"""Benchmarks: how versions did on suites."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, select, update

from core.benchmarks import Benchmark, BenchmarkState, Plan, Trigger
from core.errors import Conflict, Fault, NotFound
from core.ids import BenchmarkId, Digest, EndpointName, Epoch, SubmissionId, VersionId
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.holding import expect_held
from registry.database.tables import benchmarks
from registry.database.upsert import insert_new

_FIXED = frozenset({"id", "version", "trigger", "started_at", "endpoint", "submission", "asked_by"})
_MAY_CHANGE = frozenset(Benchmark.__dataclass_fields__) - _FIXED - {"updated_at"}
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

    def change(
        self, benchmark: BenchmarkId, now: Epoch, *, unless_ended: bool = True, held_by: str | None = None, **fields: Any
    ) -> Benchmark:
        """Set fields and return the new row; an ended one stays as it is with `unless_ended`, one of another driver with `held_by`."""
        if strange := fields.keys() - _MAY_CHANGE:
            raise Fault(f"a benchmark has no field {', '.join(sorted(strange))} that changes", hint="this is a bug; report it")
        values = plain(fields)
        if "plan" in fields:
            values |= _planned(fields["plan"])
        query = update(benchmarks).where(benchmarks.c.id == benchmark).values(**values, updated_at=now)
        if unless_ended:
            query = query.where(benchmarks.c.state.not_in(_ENDS))
        if held_by is not None:
            query = query.where(benchmarks.c.flow_run == held_by)
        with self._connections.write() as connection:
            connection.execute(query)
            return expect_held(_get(connection, benchmark), held_by)

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
        raise NotFound(f"there is no benchmark {benchmark[:64]}", reason="no_benchmark", hint="`seatrial bench list` lists them")
    return _benchmark(row)


def _benchmark(row: RowMapping) -> Benchmark:
    return restore(Benchmark, row)
