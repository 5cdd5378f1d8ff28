"""What happens to a benchmark: its transition table, and the use cases that write its row.

running ──judged──► done
└──failed, cancelled──► failed
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from core.access import Actor
from core.benchmarks import Benchmark, BenchmarkState, Plan, Trigger
from core.errors import Conflict, NotFound, Transient
from core.ids import BenchmarkId, Epoch
from core.ports import Clock, FlowRuns, Records
from core.reasons import Reason
from core.versions import Decision
from lifecycle.audit import write_audit
from lifecycle.leases import expect_driver, expect_free
from lifecycle.rows import update

_LOG = logging.getLogger("seatrial.lifecycle")


@dataclass(frozen=True, slots=True)
class Judgement:
    """A benchmark's numbers, and the decision from holding them against a baseline. `comparison` is for display."""

    numbers: Mapping[str, float]
    decision: Decision
    reason: str
    baseline: BenchmarkId | None = None
    comparison: Mapping[str, Any] = field(default_factory=dict)


class Event(StrEnum):
    """What can happen to a benchmark."""

    JUDGED = "judged"
    FAILED = "failed"
    """It could not run, or was cancelled."""


TRANSITIONS: Final[Mapping[tuple[BenchmarkState, Event], BenchmarkState]] = {
    (BenchmarkState.RUNNING, Event.JUDGED): BenchmarkState.DONE,
    (BenchmarkState.RUNNING, Event.FAILED): BenchmarkState.FAILED,
}
"""Every transition. What is not listed is illegal; no end state is ever left."""


def next_state(state: BenchmarkState, event: Event) -> BenchmarkState:
    """Return the state after an event. Raises Conflict where the event is illegal."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Conflict(f"the event {event} is not allowed for a benchmark in state {state}", reason=Reason.ILLEGAL_TRANSITION) from None


def start(records: Records, runs: FlowRuns, clock: Clock, row: Benchmark, by: Actor) -> Benchmark:
    """Store a new benchmark and start its flow run.

    The row comes first: while the orchestrator is unavailable it waits, and reconcile starts its run later.
    """
    made = records.benchmarks.create(row)
    write_audit(records, clock, by, "benchmark", made.id, version=row.version, endpoint=row.endpoint, suite=row.plan.suite)
    try:
        return start_run(records, runs, clock, made)
    except (Transient, NotFound) as error:
        _LOG.warning("benchmark %s waits for reconcile: %s", made.id, error)
        return made


def start_run(records: Records, runs: FlowRuns, clock: Clock, row: Benchmark) -> Benchmark:
    """Start the benchmark's next flow run and return its row. The same number of runs again starts no second run.

    Errors: Transient and NotFound (the orchestrator is unavailable), Conflict (another run drives it).
    """
    run = runs.start_benchmark(row.id, row.runs, {"target": row.endpoint or row.version, "suite": row.plan.suite})

    def started(found: Benchmark) -> Benchmark:
        if found.ended or found.flow_run == run:  # it may have claimed the row already, or even ended it
            return replace(found, runs=max(found.runs, row.runs + 1))
        expect_free(found, clock.now())
        return replace(found, flow_run=run, driver=None, runs=max(found.runs, row.runs + 1))

    return update(records.benchmarks, row.id, clock.now(), started)


def claim(records: Records, clock: Clock, benchmark: BenchmarkId, run: str, driver: str, lease_s: float) -> Benchmark:
    """Let the process `driver` of the flow run `run` drive the benchmark for `lease_s` seconds. One that has ended stays as it is.

    Conflict when another driver holds it.
    """

    def claimed(row: Benchmark) -> Benchmark:
        now = clock.now()
        expect_free(row, now, for_driver=driver)
        return row if row.ended else replace(row, flow_run=run, driver=driver, lease_until=now + lease_s)

    return update(records.benchmarks, benchmark, clock.now(), claimed)


def renew(records: Records, clock: Clock, benchmark: BenchmarkId, driver: str, until: Epoch) -> Benchmark:
    """Extend the driver's lease. Does nothing once the benchmark has ended. Conflict when another driver took over."""

    def renewed(row: Benchmark) -> Benchmark:
        if row.ended:
            return row
        expect_driver(row, driver, clock.now())
        return replace(row, lease_until=until)

    return update(records.benchmarks, benchmark, clock.now(), renewed)


def release(records: Records, clock: Clock, benchmark: BenchmarkId, driver: str) -> Benchmark:
    """End the driver's lease. Does nothing when another driver has taken over."""
    return update(records.benchmarks, benchmark, clock.now(), lambda row: replace(row, lease_until=0.0) if row.driver == driver else row)


def pin(records: Records, clock: Clock, benchmark: BenchmarkId, plan: Plan, driver: str | None) -> Benchmark:
    """Write the pinned plan down. A plan that is pinned already is kept."""
    return _driven(records, clock, benchmark, driver, lambda row: row if row.planned else replace(row, plan=plan))


def note_progress(records: Records, clock: Clock, benchmark: BenchmarkId, progress: float, driver: str | None) -> Benchmark:
    """Write down which part of the answers is there, 0 to 1, and return the row: whether it has ended tells whether to go on."""
    return _driven(records, clock, benchmark, driver, lambda row: replace(row, progress=progress))


def note_judgement(records: Records, clock: Clock, benchmark: BenchmarkId, judgement: Judgement, driver: str | None) -> Benchmark:
    """Write the numbers and the decision down. The benchmark ends later, once its alert was raised."""
    return _driven(records, clock, benchmark, driver, lambda row: _judged(row, judgement))


def finish(records: Records, clock: Clock, benchmark: BenchmarkId, driver: str | None) -> Benchmark:
    """End a benchmark that was judged."""
    return _driven(
        records, clock, benchmark, driver, lambda row: replace(row, state=next_state(row.state, Event.JUDGED), ended_at=clock.now())
    )


def finish_gate(records: Records, clock: Clock, benchmark: BenchmarkId, judgement: Judgement) -> Benchmark:
    """Write a gate's judgement down and end it. A gate has no driver of its own: its submission's run writes it."""

    def done(row: Benchmark) -> Benchmark:
        return replace(_judged(row, judgement), state=next_state(row.state, Event.JUDGED), ended_at=clock.now())

    return _driven(records, clock, benchmark, None, done)


def fail(records: Records, clock: Clock, benchmark: BenchmarkId, reason: str, driver: str | None) -> Benchmark:
    """End a benchmark that could not run."""
    return _driven(records, clock, benchmark, driver, lambda row: _failed(row, reason, clock.now()))


def cancel(records: Records, clock: Clock, benchmark: BenchmarkId, by: Actor) -> Benchmark:
    """End a benchmark on request, also while a process drives it. Conflict for a submission's gate, and for one that has ended."""

    def cancelled(row: Benchmark) -> Benchmark:
        if row.trigger is Trigger.GATE:
            raise Conflict(f"{row.id} is the gate of a submission", reason=Reason.IS_A_GATE, hint=f"seatrial cancel {row.submission}")
        if row.ended:
            raise Conflict(f"{row.id} has ended already ({row.state})", reason=Reason.ALREADY_ENDED, hint=f"`seatrial bench show {row.id}`")
        return _failed(row, f"cancelled by {by.name}", clock.now())

    cancelled(records.benchmarks.get(benchmark))
    write_audit(records, clock, by, "cancel", benchmark)  # first: an error after the change would lose the entry
    return update(records.benchmarks, benchmark, clock.now(), cancelled)


def note_mirror(records: Records, clock: Clock, benchmark: BenchmarkId, rows_uri: str, run_url: str) -> Benchmark:
    """Write down where the benchmark is shown, also after its end."""
    return update(records.benchmarks, benchmark, clock.now(), lambda row: replace(row, rows_uri=rows_uri, run_url=run_url))


def note_study(
    records: Records, clock: Clock, benchmark: BenchmarkId, study: str, document: Mapping[str, Any], *, begun: bool = False
) -> Benchmark:
    """Keep a study beside the benchmark's others, also after its end. With `begun`, one that is there already is kept."""

    def noted(row: Benchmark) -> Benchmark:
        if begun and study in row.studies:
            return row
        return replace(row, studies={**row.studies, study: dict(document)})

    return update(records.benchmarks, benchmark, clock.now(), noted)


def _driven(
    records: Records, clock: Clock, benchmark: BenchmarkId, driver: str | None, decide: Callable[[Benchmark], Benchmark]
) -> Benchmark:
    """Change the row as its driver. One that has ended stays as it is. Conflict when another driver holds it."""

    def changed(row: Benchmark) -> Benchmark:
        if row.ended:
            return row
        expect_driver(row, driver, clock.now())
        return decide(row)

    return update(records.benchmarks, benchmark, clock.now(), changed)


def _judged(row: Benchmark, judgement: Judgement) -> Benchmark:
    return replace(
        row,
        numbers=judgement.numbers,
        decision=judgement.decision,
        reason=judgement.reason,
        comparison=judgement.comparison,
        baseline=judgement.baseline,
        progress=1.0,
    )


def _failed(row: Benchmark, reason: str, now: Epoch) -> Benchmark:
    return replace(row, state=next_state(row.state, Event.FAILED), ended_at=now, reason=reason)
