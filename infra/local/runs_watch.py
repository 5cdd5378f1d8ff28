"""Whether flow runs can start: the runner's heartbeat, Prefect's settings, and how the last run of ours ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from core.errors import SeatrialError, Transient
from core.flow_runs import Deployment, RunState
from core.ids import Epoch
from core.ports.clock import Clock, SystemClock
from core.services import RUNNER_LOST_S, RunnerBeat
from core.settings import Settings

_LOOK_S = 5.0
_ANSWER_S = 5.0
"""Timeout of one call of Prefect. A Prefect that hangs is reported with the second look that fails, after 20 s."""
_PATIENCE_S = 2.0
CAN_START = "flow runs can start again"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why no flow run can start: `cause`, and `hint`, the sentence that removes it. One that lasts is equal to itself later."""

    cause: str
    hint: str
    for_s: float | None = field(default=None, compare=False)
    """For how many seconds, where this is measured."""

    @property
    def what(self) -> str:
        """The cause with its duration."""
        return self.cause if self.for_s is None else f"{self.cause} for {self.for_s:.0f} s"

    def __str__(self) -> str:
        """Return one sentence for people."""
        return f"{self.what}; {self.hint}" if self.hint else self.what


class Runs(Protocol):
    """The part of the orchestrator that is read here. Errors: Transient, Fault."""

    def deployments(self) -> tuple[Deployment, ...]: ...  # noqa: D102
    def last_ended(self) -> RunState | None: ...  # noqa: D102


class Stop(Protocol):
    """Ends the watch: `threading.Event`."""

    def wait(self, timeout: float) -> bool: ...  # noqa: D102


def trouble(settings: Settings, clock: Clock | None = None) -> Trouble | None:
    """Return why no flow run can start now, None when runs can. Raises SeatrialError when database or Prefect do not answer."""
    from registry.database import open_database  # noqa: PLC0415 - with SQLAlchemy, which other commands do not need
    from registry.flow_runs import PrefectRuns  # noqa: PLC0415

    clock = clock or SystemClock()
    log = f"see {settings.logs / 'runner.log'}, then restart `seatrial up`"
    with open_database(settings.database_url) as records:
        beat = records.runners.latest()
    if beat is None:
        return Trouble("the flow runner has not reported yet", log)
    if beat.lost(clock.now()):
        return Trouble(f"the flow runner (process {beat.pid}) has left no heartbeat", log, clock.now() - beat.at)
    runs = PrefectRuns(settings.prefect_api_url, timeout_s=_ANSWER_S, patience_s=_PATIENCE_S, clock=clock)
    try:
        return _in_prefect(runs, beat, clock.now(), log)
    finally:
        runs.close()


def _in_prefect(runs: Runs, beat: RunnerBeat, now: Epoch, log: str) -> Trouble | None:
    """Return why a runner that reports starts no runs."""
    deployments = runs.deployments()
    for found in deployments:
        if found.obstacle:
            return Trouble(f"flow runs cannot start: {found.obstacle.cause}", found.obstacle.hint)
    for found in deployments:
        if found.unattended(now, beat.started):
            cause = f"the flow runner (process {beat.pid}) has not asked Prefect for runs of {found.name}"
            return Trouble(cause, log, found.unasked_s(now, beat.started))
    last = runs.last_ended()
    if last is not None and last.could_not_start(since=beat.started):
        return Trouble(f"the last flow run could not start: {last.message or last.name}", log)
    return None


def watch(settings: Settings, stop: Stop, say: Callable[[str], None], clock: Clock | None = None) -> None:
    """Say each new trouble, and once that there is none any more, until `stop` is set.

    Prefect or the database may restart: the supervisor reports that. One that does not answer for longer is reported as a trouble.
    """
    clock = clock or SystemClock()
    known: Trouble | None = None
    answered = clock.now()
    while not stop.wait(_LOOK_S):
        try:
            found = trouble(settings, clock)
        except Transient as error:
            if clock.now() - answered <= RUNNER_LOST_S:
                continue
            found = Trouble(error.what, error.hint)
        except SeatrialError as error:
            found, answered = Trouble(error.what, error.hint), clock.now()
        else:
            answered = clock.now()
        if found != known:
            say(str(found or CAN_START))
            known = found
