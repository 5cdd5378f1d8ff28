"""A submission's gate as a benchmark: its row, its answers, its end. History begins here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from core.benchmarks import Benchmark, BenchmarkState, Plan, Sample, Trigger
from core.errors import NotFound, SeatrialError
from core.ids import BenchmarkId, EndpointName, SubmissionId, VersionId, new_id
from core.ports import Clock, Records
from core.ports.benchmark_runner import BenchmarkRunner, Progress
from core.versions import Decision
from lifecycle.benchmarks import Judgement, fail, finish_gate
from registry.answers import Answers
from tasks.baselines import numbers_in
from tasks.benchmarks import record_in_mlflow, show

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GateEnd:
    """What a gate says of a candidate; `comparison` is for display."""

    decision: Decision
    reason: str
    baseline: BenchmarkId | None = None
    comparison: Mapping[str, Any] = field(default_factory=dict)


def gate_row(records: Records, clock: Clock, submission: SubmissionId, endpoint: EndpointName, version: VersionId, plan: Plan) -> Benchmark:
    """Return the gate's benchmark of a version by a pinned plan: the one that an earlier attempt made, else a new one, running."""
    alive = (BenchmarkState.RUNNING, BenchmarkState.DONE)
    rows = records.benchmarks.find(submission=submission, version=version, plan=plan.key, states=alive, limit=1)
    if rows:
        return rows[0]
    now = clock.now()
    row = Benchmark(BenchmarkId(new_id("bm")), version, plan, Trigger.GATE, BenchmarkState.RUNNING, now, endpoint, submission=submission)
    return records.benchmarks.create(row)


def known_run(records: Records, answers: Answers, version: VersionId, plan: Plan) -> tuple[Benchmark, tuple[Sample, ...]] | None:
    """Return the newest whole run of a plan on a version with its answers, whatever started it, or None."""
    for row in records.benchmarks.find(version=version, plan=plan.key, states=[BenchmarkState.DONE]):
        try:
            return row, answers.read(row)
        except NotFound as error:
            log.warning("benchmark.unreadable", benchmark=row.id, cause=error.what)
    return None


def gate_answers(answers: Answers, runner: BenchmarkRunner, row: Benchmark, address: str, progress: Progress) -> tuple[Sample, ...]:
    """Return the gate's answers, asked now as far as an earlier attempt has not."""
    if not answers.packed(row.id).is_file():
        answers.pack(row.id, runner.run(address, row.version, row.plan, answers.growing(row.id), progress))
    return answers.read(row)


def end_gate(records: Records, clock: Clock, answers: Answers, row: Benchmark, samples: tuple[Sample, ...], end: GateEnd) -> Benchmark:
    """Write the gate's numbers and end into its row, and show it. What cannot be shown now is entered in MLflow by reconcile."""
    judgement = Judgement(numbers_in(samples), end.decision, end.reason, end.baseline, end.comparison)
    ended = finish_gate(records, clock, row.id, judgement)
    answers.forget_growing(row.id)
    for part in (record_in_mlflow, show):
        try:
            part.fn(row.id)
        except SeatrialError as error:
            log.warning("benchmark.not_shown", benchmark=row.id, cause=error.what)
    return ended


def fail_gate(records: Records, clock: Clock, row: Benchmark, error: SeatrialError) -> None:
    """Write down that a gate could not run; its submission tells why."""
    fail(records, clock, row.id, str(error), None)
