"""Work whose driver is gone: found, and given another driver or an end.

A driver that lives renews its lease. A row whose lease has expired is abandoned unless its flow run is still on its way to a
process. The watchdog (`left_alone`) and reconcile (`resume_submission`, `resume_benchmark`) use the same rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.benchmarks import Benchmark, BenchmarkState, Trigger
from core.endpoints import OPEN_ROLLOUTS
from core.errors import Conflict, Fault, NotFound, Refused, SeatrialError
from core.flow_runs import RunState, RunType
from core.ids import BenchmarkId, Epoch, SubmissionId
from core.ports import Clock, FlowRuns, Records
from core.reasons import Reason
from core.submissions import Submission, SubmissionState
from lifecycle import benchmarks, submissions

_STARTS_WITHIN = 10
"""A process that has not started after this many times `pickup_s` is presumed dead, though the runner has not reported it."""
_FRESH_S = 5.0
"""A submission that changed within this time is being started."""
_GONE = frozenset({RunType.CANCELLED, RunType.CANCELLING})


@dataclass(frozen=True, slots=True)
class Recovery:
    """Finds abandoned rows and brings them on. Errors of its verbs: Transient, NotFound (the orchestrator or the database)."""

    records: Records
    runs: FlowRuns
    clock: Clock
    pickup_s: float
    """How long a run without a heartbeat of its runner may take to begin."""
    most_runs: int
    """So many flow runs may end without a result before the row ends as failed."""
    end_submission: Callable[[SubmissionId, SeatrialError], object]
    end_benchmark: Callable[[BenchmarkId, SeatrialError], object]

    def abandoned_submissions(self) -> tuple[Submission, ...]:
        """Return the open submissions that no driver holds."""
        now = self.clock.now()
        return tuple(row for row in self.records.submissions.find(states=submissions.OPEN, limit=1000) if row.lease_until < now)

    def abandoned_benchmarks(self) -> tuple[Benchmark, ...]:
        """Return the running benchmarks that no driver holds. A gate's is driven by its submission until that has ended."""
        now = self.clock.now()
        rows = self.records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=1000)
        return tuple(row for row in rows if row.lease_until < now and not self._in_a_submission(row))

    def left_alone(self, now: Epoch) -> bool:
        """Return whether an open submission, benchmark or rollout has no driver. Three indexed queries; decides nothing."""
        rows = self.records.submissions.find(states=submissions.OPEN, limit=1000)
        lapsed = [row for row in rows if row.lease_until < now and row.updated_at < now - _FRESH_S]
        if any(not self._awaits_pickup(row, self._state_of(row.flow_run)) for row in lapsed):
            return True
        running = self.records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=1000)
        if any(row.trigger is not Trigger.GATE and row.lease_until < now and row.updated_at < now - self.pickup_s for row in running):
            return True
        driven = {row.id for row in rows}
        return any(row.submission not in driven for row in self.records.rollouts.find(states=OPEN_ROLLOUTS, limit=1000))

    def resume_submission(self, row: Submission) -> bool:
        """Bring one abandoned submission on; return whether anything was done. Does nothing where a driver was faster."""
        try:
            return self._resume_submission(row)
        except Conflict as error:
            if error.reason is not Reason.DRIVEN_BY_ANOTHER:
                raise
            return False

    def resume_benchmark(self, row: Benchmark) -> bool:
        """Bring one abandoned benchmark on; return whether anything was done. Does nothing where a driver was faster."""
        try:
            return self._resume_benchmark(row)
        except Conflict as error:
            if error.reason is not Reason.DRIVEN_BY_ANOTHER:
                raise
            return False

    def _resume_submission(self, row: Submission) -> bool:
        if row.state is SubmissionState.CANCELLING:
            self.end_submission(row.id, Refused("cancelled on request", reason=Reason.CANCELLED))
            return True
        run = self._state_of(row.flow_run)
        if run is not None and run.type in _GONE:  # the lease has expired: its process is gone
            why = Refused("cancelled on Prefect's page", reason=Reason.CANCELLED, hint="submit again when it is still wanted")
            self.end_submission(row.id, why)
            return True
        if self._awaits_pickup(row, run):
            return False
        if row.runs >= self.most_runs:
            why_failed = Fault(f"{row.runs} flow runs of {row.id} ended without a result", hint="see `seatrial logs`; then submit again")
            self.end_submission(row.id, why_failed)
            return True
        if run is not None and row.flow_run:
            self.runs.crash(row.flow_run)  # its process is gone: a living one renews the lease
        submissions.start_run(self.records, self.runs, self.clock, row)
        return True

    def _resume_benchmark(self, row: Benchmark) -> bool:
        if row.trigger is Trigger.GATE:
            self.end_benchmark(row.id, Refused("its submission has ended", reason=Reason.CANCELLED))
            return True
        run = self._state_of(row.flow_run)
        if run is not None and run.type is RunType.CANCELLED:
            why = Refused("cancelled on Prefect's page", reason=Reason.CANCELLED, hint="start it again when it is still wanted")
            self.end_benchmark(row.id, why)
            return True
        begins = run is not None and (run.waiting or (run.type is RunType.RUNNING and row.driver is None))
        if run is not None and begins and self._on_its_way(run, row.updated_at):
            return False
        if row.runs >= self.most_runs:
            why_failed = Fault(f"{row.runs} flow runs of {row.id} ended without a result", hint="see Prefect's page; then run it again")
            self.end_benchmark(row.id, why_failed)
            return True
        if run is not None and row.flow_run and not run.ended and row.runs > 0:
            self.runs.crash(row.flow_run)  # its process is gone: a living one renews the lease
        benchmarks.start_run(self.records, self.runs, self.clock, row)
        return True

    def _awaits_pickup(self, row: Submission, run: RunState | None) -> bool:
        """Return whether a submission's run is on its way, so that no other is started. A run that has just begun holds no lease yet."""
        if run is None or not (
            run.waiting or (run.type is RunType.RUNNING and (row.state is SubmissionState.QUEUED or row.driver is None))
        ):
            return False  # a run that continues a submission finds it running, without a driver until it claims it
        return self._on_its_way(run, row.updated_at)

    def _on_its_way(self, run: RunState, since: Epoch) -> bool:
        """Return whether the run will still begin without our action. `since`: when its row last changed.

        A flow runner, or Prefect's worker, takes up every scheduled run once it is up and has a free slot: a scheduled run is never
        lost. A runner that leaves heartbeats reports the end of each process that it started: a run is lost with the runner that
        started it. Without heartbeats (runs as Jobs of a cluster) only the time decides about a run whose pod was started.
        """
        if run.type is RunType.SCHEDULED:
            return True
        now = self.clock.now()
        beat = self.records.runners.latest()
        if beat is None:
            return now - since < self.pickup_s
        started_by_this_runner = max(run.at, since) >= beat.started
        return started_by_this_runner and now - since < _STARTS_WITHIN * self.pickup_s

    def _state_of(self, flow_run: str | None) -> RunState | None:
        """Return the state of a row's run, None where it has none (or the orchestrator has forgotten it)."""
        try:
            return self.runs.state(flow_run) if flow_run else None
        except NotFound:
            return None

    def _in_a_submission(self, row: Benchmark) -> bool:
        if row.trigger is not Trigger.GATE or row.submission is None:
            return False
        try:
            return not self.records.submissions.get(row.submission).state.ended
        except NotFound:
            return False
