"""A platform of use cases, a real database and doubles of Prefect and engines, in which everything can happen at any moment."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from core.access import Actor
from core.endpoints import OPEN_ROLLOUTS, Rollout, RolloutState, Withdrawal
from core.engines import EngineSpec
from core.errors import Conflict, NotFound, Refused, SeatrialError, Transient
from core.flow_runs import DEPLOY, Deployment, LogLine, RunState, RunType
from core.ids import BenchmarkId, Digest, EndpointName, Epoch, PrincipalId, RolloutId, SubmissionId, VersionId
from core.ports import Records
from core.ports.clock import VirtualClock
from core.ports.null import NullEventRecorder
from core.reasons import Reason
from core.settings import RolloutPolicy
from core.submissions import Submission
from lifecycle import submissions
from lifecycle.ending import Ending
from lifecycle.engines import retire_unwanted
from lifecycle.leases import held_by_another
from lifecycle.opening import Opening
from lifecycle.recovery import Recovery
from lifecycle.rollback import withdraw_rollout
from lifecycle.rollouts.driver import Driver, driven_by_another
from lifecycle.rollouts.withdrawn import withdrawn
from tests.equipment.fakes import FakeEngines
from tests.equipment.samples import a_request, a_version

ANN = Actor(PrincipalId("prn-ann"), "ann", "ann (key-ann)")
LEASE_S = 45.0
PICKUP_S = 45.0
WORSE = Refused("pass@1 0.21 is below the stable version's 0.90", reason=Reason.BENCHMARK_BELOW_STABLE)
_POLICY = RolloutPolicy(min_conversations=0, step_s=0.0, soak_s=0.0, deadline_s=3600.0)

Steps = Generator[None, None, None]
"""What a process does; at each yield it can be killed or held up."""


class Prefect:
    """Implements `FlowRuns`. Runs never start by themselves: the test starts their processes, late, twice or never."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.away = False
        self.runs: dict[str, RunState] = {}
        self.of: dict[str, SubmissionId] = {}
        self.studies: list[tuple[str, dict[str, Any]]] = []

    def start(self, submission: SubmissionId, attempt: int, _request: Mapping[str, str]) -> str:
        self._answer()
        run = f"{submission}-{attempt}"
        self.of[run] = submission
        self.runs.setdefault(run, self._now("SCHEDULED"))
        return run

    def start_benchmark(self, benchmark: BenchmarkId, attempt: int, request: Mapping[str, Any]) -> str:
        raise AssertionError("no benchmark is started here")

    def start_study(self, study: str, request: Mapping[str, Any]) -> str:
        self._answer()
        self.studies.append((study, dict(request)))
        self.runs.setdefault(f"run-of-{study}", self._now("SCHEDULED"))
        return f"run-of-{study}"

    def state(self, run_id: str) -> RunState | None:
        self._answer()
        if run_id not in self.runs:
            raise NotFound(f"no run {run_id}")
        return self.runs[run_id]

    def ahead(self, run_id: str) -> int:
        return 0

    def deployment_of(self, run_id: str) -> Deployment:
        self._answer()
        return Deployment(DEPLOY, polled=self._clock.now())

    def deployments(self) -> tuple[Deployment, ...]:
        self._answer()
        return (Deployment(DEPLOY, polled=self._clock.now()),)

    def cancel(self, run_id: str) -> None:
        self._answer()
        if not self.runs[run_id].ended:
            self.runs[run_id] = self._now("CANCELLING")

    def crash(self, run_id: str) -> None:
        self._answer()
        if not self.runs[run_id].ended:
            self.runs[run_id] = self._now("CRASHED")

    def logs(self, run_id: str, after: Epoch | None = None) -> tuple[LogLine, ...]:
        return ()

    def note(self, run: str, kind: str) -> None:
        """Let a run be in a state, as its runner reports it."""
        self.runs[run] = self._now(kind)

    def _now(self, kind: str) -> RunState:
        return RunState(RunType(kind), kind.title(), at=self._clock.now())

    def _answer(self) -> None:
        if self.away:
            raise Transient("Prefect is away")


@dataclass
class Process:
    """The process of a flow run. A frozen one does nothing and renews no lease, as on a machine that sleeps."""

    run: str
    driver: str
    steps: Steps
    submission: SubmissionId
    claimed: bool = False
    frozen: bool = False


@dataclass
class World:
    """All state of one example, with the moves that the state machine makes."""

    records: Records
    clock: VirtualClock
    engines: FakeEngines
    prefect: Prefect
    processes: list[Process] = field(default_factory=list)
    refused: set[SubmissionId] = field(default_factory=set)
    """Submissions whose trials fail."""
    asked: int = 0
    leases: dict[SubmissionId, tuple[str, Epoch]] = field(default_factory=dict)
    """Who was promised to be the only driver of a submission, until when; written from what the use cases returned."""
    _born: int = 0

    def driver_of_rollouts(self, owner: str) -> Driver:
        """Return a rollout driver, as each process has its own."""
        return Driver(self.records, self.engines, self.clock, _POLICY, owner, NullEventRecorder())

    def submit(self, endpoint: str, version: int, *, good: bool) -> None:
        """Submit a model, as the control API does."""
        self.asked += 1
        request = a_request(endpoint=EndpointName(endpoint), note=f"{version}")
        row = submissions.submit(self.records, self.prefect, self.clock, request, ANN)
        if not good:
            self.refused.add(row.id)

    def cancel(self, submission: SubmissionId) -> None:
        """Cancel a submission, as the control API does."""
        with suppress(Conflict):
            submissions.cancel(self.records, self.prefect, self.clock, submission, ANN)

    def roll_back(self, rollout: RolloutId) -> None:
        """Withdraw a rollout, as an operator does."""
        row = self.records.rollouts.get(rollout)
        if not row.state.ended:
            withdraw_rollout(self.records, self.clock, row, ANN)

    def start(self, run: str) -> None:
        """Start a process for a run, whatever Prefect thinks of the run."""
        self._born += 1
        driver = f"{run}/{self._born}"
        process = Process(run, driver, iter(()), self.prefect.of[run])  # type: ignore[arg-type] # replaced in the next line
        process.steps = self._flow(process)
        self.processes.append(process)
        if not self.prefect.runs[run].ended:
            self.prefect.note(run, "RUNNING")

    def step(self, process: Process) -> None:
        """Let a process come to its next yield. One that loses its row exits, as `tasks/lease.py` makes it."""
        before = self.records.submissions.get(process.submission)
        try:
            next(process.steps)
        except StopIteration:
            self._end(process, "COMPLETED")
        except SeatrialError:
            self._end(process, "FAILED")
        after = self.records.submissions.get(process.submission)
        assert after.revision == before.revision or after.driver == process.driver, f"{process.driver} wrote a row that it does not drive"

    def kill(self, process: Process) -> None:
        """Kill a process: nothing of it runs any more, and nobody reports it."""
        self.processes.remove(process)

    def wait(self, seconds: float) -> None:
        """Let time pass; living processes renew their leases, and exit where another one took over."""
        for part in _parts(seconds, LEASE_S / 4):
            self.clock.wait(part)
            for process in [process for process in self.processes if process.claimed and not process.frozen]:
                until = self.clock.now() + LEASE_S
                try:
                    row = submissions.renew(self.records, self.clock, process.submission, process.driver, until)
                except Conflict:
                    self.kill(process)
                else:
                    self._promised(row)

    def reconcile(self, watchdog: str, cut: int | None = None) -> None:
        """Make a pass; with `cut`, the instance is killed after so many steps of the first end that it makes."""

        def end(submission: SubmissionId, error: SeatrialError) -> None:
            for number, _ in enumerate(self._end_of(submission, error, None, watchdog)):
                if number == cut:
                    raise _Killed

        recovery = Recovery(self.records, self.prefect, self.clock, PICKUP_S, 5, end_submission=end, end_benchmark=_never)
        try:
            self._drive_rollouts(watchdog)
            for row in recovery.abandoned_submissions():
                recovery.resume_submission(row)
        except (_Killed, Transient):
            return
        retire_unwanted(self.records, self.engines, self.clock, drain_s=0.0)

    def _drive_rollouts(self, watchdog: str) -> None:
        driver, now = self.driver_of_rollouts(watchdog), self.clock.now()
        for row in self.records.rollouts.find(states=OPEN_ROLLOUTS):
            if driven_by_another(row, watchdog, now):
                continue
            if self.records.submissions.get(row.submission).state.ended:
                driver.withdraw(row.id, "its submission has ended", Withdrawal.SUBMISSION_ENDED)
            driver.advance(row.id)

    def _flow(self, process: Process) -> Steps:
        """Do what `flows/deploy_model.py` does with the rows: the same use cases in the same order."""
        row = self.records.submissions.get(process.submission)
        if row.state.ended:
            raise Conflict("started too late")
        yield
        while held_by_another(self.records.submissions.get(row.id), process.driver, self.clock.now()):
            yield
        yield
        row = submissions.claim(self.records, self.clock, row.id, process.run, process.driver, LEASE_S)
        other, until = self.leases.get(row.id, ("", 0.0))
        assert other == process.driver or until <= self.clock.now(), f"{process.driver} took a row that {other} holds"
        process.claimed = True
        self._promised(row)
        yield
        try:
            yield from self._bring(row, process)
        except Conflict:
            raise  # it lost the row
        except SeatrialError as error:
            yield from self._end_of(row.id, error, process.driver, process.driver)
        self._promised(submissions.release(self.records, self.clock, row.id, process.driver))

    def _promised(self, row: Submission) -> None:
        self.leases[row.id] = str(row.driver), row.lease_until

    def _bring(self, row: Submission, process: Process) -> Steps:
        why = submissions.ending(self.records.submissions.get(row.id))
        if why is not None:
            raise why
        version = VersionId(row.request.note * 64)
        self.records.versions.put(a_version(id=version, commit=row.request.note * 40))
        submissions.set_version(self.records, self.clock, row.id, version, process.driver)
        yield
        submissions.expect_open(self.records, row.id)
        if not self.driver_of_rollouts(process.driver).serves(row.id, row.request.endpoint, version):
            rollout = yield from self._opening(process).steps(row.id, version, process.driver)
            submissions.expect_open(self.records, row.id)
            self.engines.apply(_spec(version))
            yield
            if row.id in self.refused:
                raise WORSE
            yield from self._roll_out(row, rollout, process)
        submissions.serve(self.records, self.clock, row.id, "it serves", process.driver)
        yield

    def _opening(self, process: Process) -> Opening:
        return Opening(self.records, self.clock, self.driver_of_rollouts(process.driver), 0.0, lambda _cause: None)

    def _roll_out(self, row: Submission, rollout: Rollout, process: Process) -> Steps:
        driver = self.driver_of_rollouts(process.driver)
        now = driver.begin(rollout.id)
        while not now.state.ended:
            yield
            submissions.expect_open(self.records, row.id)
            now = driver.advance(rollout.id)
        if now.state is not RolloutState.PROMOTED:
            raise withdrawn(now)
        yield

    def _end_of(self, submission: SubmissionId, error: SeatrialError, driver: str | None, owner: str) -> Steps:
        """End a submission as every driver does, without weights to remove."""
        ending = Ending(self.records, self.clock, self.driver_of_rollouts(owner), self._retire, lambda _row: None, lambda *_end: None)
        yield from ending.steps(submission, error, driver)

    def _retire(self) -> None:
        retire_unwanted(self.records, self.engines, self.clock, drain_s=0.0)

    def _end(self, process: Process, state: str) -> None:
        self.processes.remove(process)
        if not self.prefect.runs[process.run].ended:
            self.prefect.note(process.run, state)


class _Killed(Exception):
    """The reconcile instance is killed here."""


def _never(_benchmark: BenchmarkId, _error: SeatrialError) -> None:
    raise AssertionError("there are no benchmarks here")


def _parts(seconds: float, longest: float) -> Iterator[float]:
    while seconds > 0:
        yield min(seconds, longest)
        seconds -= longest


def _spec(version: VersionId) -> EngineSpec:
    return EngineSpec(
        version=version,
        model_uri="file:///model",
        tensors_uri="file:///tensors",
        tensors_manifest=Digest("0" * 64),
        max_model_len=512,
        dtype="float32",
        memory_bytes=1 << 30,
    )
