"""Why work without a driver waits: a fact about its flow run or the flow runner, never the time that has passed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from core.errors import NotFound, Transient
from core.flow_runs import RunState
from core.ports.clock import Clock
from core.services import RunnerBeat


class WaitReason(StrEnum):
    """Why it waits. Those that are `stuck` need an operator; the others pass."""

    STARTING = "starting"
    BUSY = "busy"
    PREFECT_UNAVAILABLE = "prefect_unavailable"
    RUNNER_DOWN = "runner_down"
    CANNOT_START = "cannot_start"

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


_DOCTOR = "run `seatrial doctor` on the platform's machine"
_ASK = f"ask an operator to {_DOCTOR}"


def waiting(flow_run: str | None, beat: RunnerBeat | None, queue: Queue, clock: Clock) -> Waiting | None:
    """Return why work with this flow run, which no process drives, waits; None when its run has begun."""
    if beat is not None and beat.lost(clock.now()):
        silent = f"the flow runner is down (its last heartbeat was {clock.now() - beat.at:.0f} s ago)"
        return Waiting(WaitReason.RUNNER_DOWN, silent, f"process {beat.pid} on {beat.host}", _DOCTOR)
    if flow_run is None:
        return Waiting(WaitReason.PREFECT_UNAVAILABLE, "Prefect has not accepted its flow run yet", hint=_DOCTOR)
    try:
        return _of_run(flow_run, queue.state(flow_run), beat, queue)
    except Transient as error:
        return Waiting(WaitReason.PREFECT_UNAVAILABLE, "Prefect is unavailable", error.what, error.hint or _DOCTOR)
    except NotFound:
        return Waiting(WaitReason.STARTING, "its flow run is started again")


def _of_run(flow_run: str, state: RunState | None, beat: RunnerBeat | None, queue: Queue) -> Waiting | None:
    if state is None or state.waiting:
        pending = state is not None and state.type == "PENDING"  # it has a slot; its process has not begun the run
        if not pending and beat is not None and beat.full and (before := queue.ahead(flow_run)) >= beat.slots:
            return Waiting(WaitReason.BUSY, f"waiting: {before} runs before it (all {beat.slots} slots of the flow runner are taken)")
        return Waiting(WaitReason.STARTING, "its flow run is about to start")
    if state.could_not_start(since=beat.started if beat else 0.0):  # one that a stopped runner took down is started again
        return Waiting(WaitReason.CANNOT_START, "its flow run could not start", state.message or state.name, _DOCTOR)
    return None
