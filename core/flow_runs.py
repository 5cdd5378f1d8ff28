"""Flow runs as the orchestrator (Prefect) reports them, and the names of its deployments."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from core.ids import Epoch
from core.services import RUNNER_LOST_S

DEPLOY: Final = "deploy-model/submit"
BENCHMARK: Final = "benchmark/on-demand"
STUDY: Final = "sampling-study/on-demand"
WAITS_FOR_A_SLOT: Final = "AwaitingConcurrencySlot"
"""The name of the state of a run that waits because its deployment's concurrency limit is reached."""
POOL_LOST_S: Final = 60.0
"""Workers of a work pool that have not asked for work for this long are down. Prefect uses the same limit; they ask every 10 s."""


class RunType(StrEnum):
    """The types of a flow run's state in Prefect. `other`: one that this release does not know; such a run is neither waiting nor ended."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    OTHER = "other"

    @classmethod
    def read(cls, text: str) -> RunType:
        """Return the type that Prefect's API names."""
        try:
            return cls(text)
        except ValueError:
            return cls.OTHER


@dataclass(frozen=True, slots=True)
class RunState:
    """A flow run's state in Prefect. Decisions read `type`, and `name` only for `WAITS_FOR_A_SLOT`; `message` is for people."""

    type: RunType
    name: str
    message: str = ""
    began: bool = True
    """Whether a process ever took the run up."""
    at: Epoch = 0.0
    """Since when it is in this state."""
    due: Epoch = 0.0
    """Since when it may start. A run that Prefect marks as late keeps this time."""

    def could_not_start(self, since: Epoch) -> bool:
        """Whether the run ended after `since` and no process ever took it up: none could be started, or it died at once."""
        return self.type is RunType.CRASHED and not self.began and self.at >= since

    @property
    def waiting(self) -> bool:
        """Whether no process has begun the run."""
        return self.type in {RunType.SCHEDULED, RunType.PENDING}

    @property
    def ended(self) -> bool:
        """Whether the run will do nothing more."""
        return self.type in {RunType.COMPLETED, RunType.FAILED, RunType.CRASHED, RunType.CANCELLED}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A setting of Prefect that keeps every run of a deployment from starting; `hint` is the sentence that removes it."""

    cause: str
    hint: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """What Prefect reports of a deployment that decides whether its runs start.

    Pausing a deployment is not an obstacle: it pauses the schedules only. Prefect still offers the runs that are created by hand.
    """

    name: str
    polled: Epoch | None = None
    """When a flow runner, or a worker of `pool`, last asked for its runs."""
    limit: int | None = None
    """How many of its runs may be open at a time."""
    pool: str = ""
    """The work pool whose workers take its runs; empty when a flow runner takes them."""
    registered: bool = True
    """Whether Prefect has it."""
    obstacle: Obstacle | None = None

    def unasked_s(self, now: Epoch, since: Epoch) -> float:
        """Return for how many seconds its runs have not been asked for, when this was possible from `since` on."""
        return now - max(self.polled or 0.0, since)

    def unattended(self, now: Epoch, since: Epoch) -> bool:
        """Whether the polls of its flow runner or of its workers are overdue."""
        return self.unasked_s(now, since) > (POOL_LOST_S if self.pool else RUNNER_LOST_S)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a flow run logged."""

    id: str
    at: Epoch
    level: str
    message: str
