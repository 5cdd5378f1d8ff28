"""The platform's present problems: one function per subject, on the records, the engines and the health probes.

The causes are sentences for people; programs use `Problem.kind`. Every action is a command of `seatrial` (a test parses each).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from core.benchmarks import Benchmark, BenchmarkState, Trigger
from core.endpoints import Endpoint, Rollout, RolloutState
from core.engines import EnginePhase, EngineState
from core.errors import SeatrialError
from core.health import Problem, ProblemKind
from core.ids import EndpointName, Epoch, VersionId
from core.ports import Clock, Engines, Records
from core.ports.health_probes import HealthProbes
from core.ports.records import Recent
from core.shown import benchmark_title, duration, model_title, part, size
from core.submissions import Submission, SubmissionState
from core.versions import Decision

_OPEN = (SubmissionState.QUEUED, SubmissionState.RUNNING, SubmissionState.CANCELLING)
_BAD_ENDS = {
    SubmissionState.FAILED: ProblemKind.SUBMISSION_FAILED,
    SubmissionState.REFUSED: ProblemKind.SUBMISSION_REFUSED,
    SubmissionState.ROLLED_BACK: ProblemKind.ROLLED_BACK,
}
_DAY_S = 86_400.0
_MOST = 1000


@dataclass(frozen=True, slots=True)
class ProblemThresholds:
    """The values above or below which something is a problem. The first four come from the settings."""

    error_rate: float = 0.1
    pickup_s: float = 45.0
    step_s: float = 60.0
    deadline_s: float = 3600.0
    window_s: float = 300.0
    """Error rates are those of the completions that began in this time."""
    fewest: int = 10
    """Completions without which an error rate says nothing."""
    silent_s: float = 120.0
    lately_s: float = _DAY_S
    spool_s: float = 300.0
    disk_part: float = 0.05
    disk_bytes: int = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class ProblemFinder:
    """Finds problems. Errors: Transient (the database is unavailable)."""

    records: Records
    engines: Engines
    clock: Clock
    probes: HealthProbes
    thresholds: ProblemThresholds

    def problems(self) -> tuple[Problem, ...]:
        """Return every problem, the most urgent kinds first, of each kind the oldest first."""
        order = list(ProblemKind)
        found = [
            *self._services(),
            *self._endpoints(),
            *self._submissions(),
            *self._rollouts(),
            *self._benchmarks(),
            *self._machine(),
        ]
        return tuple(sorted(found, key=lambda one: (_URGENCY[one.severity], order.index(one.kind), one.since or 0.0, one.subject)))

    def _services(self) -> Iterator[Problem]:
        services = self.probes.services()
        for service in services:
            if service.cause:
                yield Problem(ProblemKind.SERVICE_DOWN, service.name, service.cause, None, "seatrial doctor")
        if any(service.name == "prefect" and service.cause for service in services):
            return  # the runner can be asked for by Prefect only
        seen, now = self.probes.runner_seen(), self.clock.now()
        if seen is None:
            yield Problem(ProblemKind.RUNNER_SILENT, "runner", "no flow runner has ever asked Prefect for work", None, "seatrial doctor")
        elif now - seen > self.thresholds.silent_s:
            cause = f"no flow runner has asked Prefect for work for {duration(now - seen)}"
            yield Problem(ProblemKind.RUNNER_SILENT, "runner", cause, seen, "seatrial doctor")

    def _endpoints(self) -> Iterator[Problem]:
        recent = self.records.conversations.recent(self.clock.now() - self.thresholds.window_s)
        for endpoint in self.records.endpoints.list():
            yield from self._engines_of(endpoint)
            yield from (problem for row in recent if row.endpoint == endpoint.name for problem in self._errors(row))

    def _engines_of(self, endpoint: Endpoint) -> Iterator[Problem]:
        for version in filter(None, (endpoint.stable, endpoint.candidate)):
            state = self._state(version)
            role = "stable version" if version == endpoint.stable else "candidate"
            if state.phase is EnginePhase.FAILED:
                cause = f"the engine of the {role} {version[:12]} failed: {state.detail or 'no cause is known'}"
                yield Problem(ProblemKind.ENGINE_FAILED, endpoint.name, cause, state.since or None, self._engine_action(endpoint, version))
            elif version == endpoint.stable and state.phase is not EnginePhase.READY:
                cause = f"the engine of the {role} {version[:12]} is {state.phase}{': ' + state.detail if state.detail else ''}"
                yield Problem(ProblemKind.ENDPOINT_NOT_READY, endpoint.name, cause, state.since or None, "seatrial endpoints")

    def _engine_action(self, endpoint: Endpoint, version: VersionId) -> str:
        """Return the command that shows a failed engine's log: by the submission that brought it."""
        found = self.records.submissions.find(endpoint=endpoint.name, limit=_MOST)
        brought = next((row.id for row in found if row.version == version), None)
        return f"seatrial logs {brought}" if brought else "seatrial endpoints"

    def _state(self, version: VersionId) -> EngineState:
        try:
            return self.engines.state(version)
        except SeatrialError as error:  # the place where engines run cannot be asked
            return EngineState(version, EnginePhase.ABSENT, detail=error.what)

    def _errors(self, row: Recent) -> Iterator[Problem]:
        rate = row.errors / row.completions if row.completions else 0.0
        if row.completions >= self.thresholds.fewest and rate > self.thresholds.error_rate:
            cause = (
                f"{row.errors} of {row.completions} completions of version {row.version[:12]} failed in the last "
                f"{duration(self.thresholds.window_s)} ({part(rate)}, limit {part(self.thresholds.error_rate)})"
            )
            yield Problem(ProblemKind.ERRORS_HIGH, row.endpoint, cause, None, f"seatrial rollback {row.endpoint}")

    def _submissions(self) -> Iterator[Problem]:
        now = self.clock.now()
        grace = max(120.0, 2 * self.thresholds.pickup_s)
        for row in self.records.submissions.find(states=_OPEN, limit=_MOST):
            idle = now - max(row.updated_at, row.lease_until)
            if idle > grace:
                cause = f"{_named(row)} is {row.state} and no flow run has renewed its lease for {duration(idle)}"
                yield Problem(ProblemKind.SUBMISSION_STUCK, row.id, cause, now - idle, f"seatrial logs {row.id}")
        newest: set[EndpointName] = set()
        for row in self.records.submissions.find(limit=_MOST):
            if row.request.endpoint in newest or not row.state.ended:
                continue
            newest.add(row.request.endpoint)  # a later submission that ended makes an earlier one history
            if row.state in _BAD_ENDS and now - row.updated_at < self.thresholds.lately_s:
                cause = f"{_named(row)}: {row.message or row.reason or row.state.replace('_', ' ')}"
                yield Problem(_BAD_ENDS[row.state], row.id, cause, row.updated_at, f"seatrial status {row.id}")

    def _rollouts(self) -> Iterator[Problem]:
        states = [state for state in RolloutState if not state.ended and state is not RolloutState.DARK]
        for row in self.records.rollouts.find(states=states, limit=_MOST):
            yield from self._rollout(row, self.clock.now())

    def _rollout(self, row: Rollout, now: Epoch) -> Iterator[Problem]:
        show = f"seatrial rollouts {row.id}"
        undriven = now - max(row.lease_until, row.step_started_at)
        if row.lease_until < now and undriven > self.thresholds.silent_s:
            cause = f"the rollout of {row.candidate[:12]} to {row.endpoint} has had no driver for {duration(undriven)}"
            yield Problem(ProblemKind.ROLLOUT_UNDRIVEN, row.id, cause, now - undriven, show)
        left = row.deadline - now
        if left < max(60.0, 0.1 * self.thresholds.deadline_s):
            when = f"ends in {duration(left)}" if left > 0 else f"passed {duration(-left)} ago"
            cause = f"the deadline of the rollout to {row.endpoint} {when} at {part(row.share)}; then it is rolled back"
            yield Problem(ProblemKind.ROLLOUT_NEAR_DEADLINE, row.id, cause, row.started_at, show)
        held = now - row.step_started_at
        if row.state is RolloutState.SHIFTING and held > max(_HELD_STEPS * self.thresholds.step_s, _HELD_S):
            why = row.verdict.reason if row.verdict else "there is no verdict yet"
            cause = f"the rollout to {row.endpoint} has been at {part(row.share)} for {duration(held)}: {why}"
            yield Problem(ProblemKind.ROLLOUT_HELD, row.id, cause, row.step_started_at, show)

    def _benchmarks(self) -> Iterator[Problem]:
        now = self.clock.now()
        grace = max(120.0, 2 * self.thresholds.pickup_s)
        for row in self.records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=_MOST):
            idle = now - max(row.updated_at, row.lease_until)
            if row.trigger is not Trigger.GATE and idle > grace:
                title = benchmark_title(row.plan.suite, row.endpoint or row.version)
                cause = f"{title} is running and no flow run has renewed its lease for {duration(idle)}"
                yield Problem(ProblemKind.BENCHMARK_STUCK, row.id, cause, now - idle, f"seatrial bench show {row.id}")
        for endpoint in self.records.endpoints.list():
            found = self.records.benchmarks.find(
                endpoint=endpoint.name, trigger=Trigger.SCHEDULE, states=[BenchmarkState.DONE, BenchmarkState.FAILED], limit=1
            )
            yield from (problem for row in found for problem in self._scheduled(endpoint, row, now))

    def _scheduled(self, endpoint: Endpoint, row: Benchmark, now: Epoch) -> Iterator[Problem]:
        """Report a regression until the version is replaced or a later run finds none, a failed run for two days."""
        if row.state is BenchmarkState.DONE and row.decision is Decision.FAIL and row.version == endpoint.stable:
            cause = f"{endpoint.name} became worse on {row.plan.suite}: {row.reason}"
            yield Problem(ProblemKind.REGRESSION, endpoint.name, cause, row.ended_at, f"seatrial bench show {row.id}")
        elif row.state is BenchmarkState.FAILED and now - (row.ended_at or now) < 2 * self.thresholds.lately_s:
            cause = f"the scheduled benchmark of {endpoint.name} could not run: {row.reason}"
            yield Problem(ProblemKind.BENCHMARK_FAILED, row.id, cause, row.ended_at, f"seatrial bench show {row.id}")

    def _machine(self) -> Iterator[Problem]:
        disk, spool, now = self.probes.disk(), self.probes.spool(), self.clock.now()
        if disk is not None and disk.free_bytes < min(self.thresholds.disk_bytes, self.thresholds.disk_part * disk.total_bytes):
            cause = f"{size(disk.free_bytes)} of {size(disk.total_bytes)} are free in the home"
            yield Problem(ProblemKind.DISK_LOW, "disk", cause, None, "seatrial doctor")
        if spool is None:
            return
        if spool.oldest_at is not None and now - spool.oldest_at > self.thresholds.spool_s:
            cause = f"{size(spool.waiting_bytes)} of metering have waited for the database for {duration(now - spool.oldest_at)}"
            yield Problem(ProblemKind.SPOOL_BACKLOG, "spool", cause, spool.oldest_at, "seatrial doctor")
        if spool.rejected_lines:
            cause = f"{spool.rejected_lines} lines of metering could not be stored and were put aside in the folder spool/rejected"
            yield Problem(ProblemKind.SPOOL_REJECTED, "spool", cause, None, "seatrial doctor")


_HELD_S = 300.0
_HELD_STEPS = 5
_URGENCY = {"critical": 0, "warning": 1, "notice": 2}


def _named(row: Submission) -> str:
    return f"{model_title(row.request.model.source, row.request.model.revision)} -> {row.request.endpoint}"
