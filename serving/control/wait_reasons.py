"""Why work without a driver waits: the state of its flow run, a setting of Prefect, or an overdue sign of life of the flow runner.

A run that has waited for a long time is not a reason. The signs of life are the runner's heartbeat and the time of its last poll, which
Prefect reports.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from core.errors import NotFound, Transient
from core.flow_runs import WAITS_FOR_A_SLOT, Deployment, RunState, RunType
from core.ids import Epoch
from core.ports.clock import Clock
from core.services import RunnerBeat


class WaitReason(StrEnum):
    """Why it waits. Those that are `stuck` need an operator; the others pass."""

    STARTING = "starting"
    BUSY = "busy"
    PREFECT_UNAVAILABLE = "prefect_unavailable"
    RUNNER_DOWN = "runner_down"
    CANNOT_START = "cannot_start"
    BLOCKED = "blocked"

    @property
    def stuck(self) -> bool:
        """Whether waiting alone does not help."""
        return self not in {WaitReason.STARTING, WaitReason.BUSY}


@dataclass(frozen=True, slots=True)
class Waiting:
    """One reason with the sentence for people, and what to do where something can be done.

    `message` contains no host, process, path or URL of the platform. `detail` and `hint` may contain them, and the words of other programs.
    """

    reason: WaitReason
    message: str
    detail: str = ""
    hint: str = ""

    def for_operators(self) -> Waiting:
        """Return it with the detail in the message."""
        return replace(self, message=f"{self.message}: {self.detail}" if self.detail else self.message)

    def for_submitters(self) -> Waiting:
        """Return it without the platform's internals."""
        return Waiting(self.reason, self.message, hint=_ASK if self.reason.stuck else "")


class Queue(Protocol):
    """The part of `FlowRuns` that this module reads. Errors: Transient, NotFound."""

    def state(self, run_id: str) -> RunState | None: ...  # noqa: D102
    def ahead(self, run_id: str) -> int: ...  # noqa: D102
    def deployment_of(self, run_id: str) -> Deployment: ...  # noqa: D102
    def deployments(self) -> tuple[Deployment, ...]: ...  # noqa: D102


_DOCTOR = "run `seatrial doctor` on the platform's machine"
_ASK = f"ask an operator to {_DOCTOR}"


def waiting(flow_run: str | None, beat: RunnerBeat | None, queue: Queue, clock: Clock) -> Waiting | None:
    """Return why work with this flow run, which no process drives, waits; None when its run has begun."""
    if beat is not None and beat.lost(clock.now()):
        silent = f"the flow runner is down (its last heartbeat was {clock.now() - beat.at:.0f} s ago)"
        return Waiting(WaitReason.RUNNER_DOWN, silent, f"process {beat.pid} on {beat.host}", _DOCTOR)
    try:
        return _of_work(flow_run, beat, queue, clock.now())
    except Transient as error:
        return Waiting(
            WaitReason.PREFECT_UNAVAILABLE, "Prefect is unavailable" if flow_run else _UNACCEPTED, error.what, error.hint or _DOCTOR
        )


def _of_work(flow_run: str | None, beat: RunnerBeat | None, queue: Queue, now: Epoch) -> Waiting | None:
    if flow_run is None:
        return _unregistered(beat, queue) or Waiting(WaitReason.PREFECT_UNAVAILABLE, _UNACCEPTED, hint=_DOCTOR)
    try:
        return _of_run(flow_run, queue.state(flow_run), beat, queue, now)
    except NotFound:
        return _unregistered(beat, queue) or Waiting(WaitReason.STARTING, "its flow run is started again")


def _unregistered(beat: RunnerBeat | None, queue: Queue) -> Waiting | None:
    """Return why Prefect accepts no run: a deployment is missing. None when it has all of them."""
    missing = [found.obstacle for found in queue.deployments() if found.obstacle and not found.registered]
    if not missing:
        return None
    if beat is None:
        return Waiting(WaitReason.RUNNER_DOWN, _NEVER_STARTED, hint=_DOCTOR)
    return Waiting(WaitReason.BLOCKED, missing[0].cause, hint=missing[0].hint)


def _of_run(flow_run: str, state: RunState | None, beat: RunnerBeat | None, queue: Queue, now: Epoch) -> Waiting | None:
    if state is None or state.type is RunType.PENDING:  # it has a slot; its process has not begun the run
        return _STARTING
    if state.waiting:
        return _of_scheduled(flow_run, state, beat, queue, now)
    if state.could_not_start(since=beat.started if beat else 0.0):  # one that a stopped runner took down is started again
        return Waiting(WaitReason.CANNOT_START, "its flow run could not start", state.message or state.name, _DOCTOR)
    return None


def _of_scheduled(flow_run: str, state: RunState, beat: RunnerBeat | None, queue: Queue, now: Epoch) -> Waiting:
    """Return why no runner has taken a run: a setting of Prefect, a silent runner, or other runs come first."""
    deployment = queue.deployment_of(flow_run)
    if deployment.obstacle:
        return Waiting(WaitReason.BLOCKED, f"its flow run is blocked: {deployment.obstacle.cause}", hint=deployment.obstacle.hint)
    since = max(state.due, beat.started if beat else 0.0)  # a runner that has just started asks in a moment
    if deployment.unattended(now, since):
        return Waiting(WaitReason.RUNNER_DOWN, _unattended(deployment, beat, deployment.unasked_s(now, since)), hint=_DOCTOR)
    if state.name == WAITS_FOR_A_SLOT:
        slots = "slots" if deployment.limit is None else f"{deployment.limit} slots"
        return Waiting(WaitReason.BUSY, f"waiting: all {slots} of the deployment {deployment.name} are taken (its concurrency limit)")
    if beat is not None and beat.full and (before := queue.ahead(flow_run)) >= beat.slots:
        return Waiting(WaitReason.BUSY, f"waiting: {before} runs before it (all {beat.slots} slots of the flow runner are taken)")
    return _STARTING


def _unattended(deployment: Deployment, beat: RunnerBeat | None, unasked_s: float) -> str:
    if deployment.pool:
        return f"no worker of the work pool {deployment.pool} has asked Prefect for work for {unasked_s:.0f} s"
    if beat is None and deployment.polled is None:
        return _NEVER_STARTED
    return f"the flow runner has not asked Prefect for work for {unasked_s:.0f} s"


_UNACCEPTED = "Prefect has not accepted its flow run yet"
_NEVER_STARTED = "the flow runner has not started yet"
_STARTING = Waiting(WaitReason.STARTING, "its flow run is about to start")
