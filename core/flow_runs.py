"""Flow runs as the orchestrator (Prefect) reports them, and the names of its deployments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from core.ids import Epoch

DEPLOY: Final = "deploy-model/submit"
BENCHMARK: Final = "benchmark/on-demand"
STUDY: Final = "sampling-study/on-demand"


@dataclass(frozen=True, slots=True)
class RunState:
    """A flow run's state as Prefect names it: `type` is one of its fixed words (RUNNING, CRASHED, ...), `name` is for people."""

    type: str
    name: str
    message: str = ""
    began: bool = True
    """Whether a process ever took the run up."""
    at: Epoch = 0.0
    """Since when it is in this state."""

    def could_not_start(self, since: Epoch) -> bool:
        """Whether the run ended after `since` and no process ever took it up: none could be started, or it died at once."""
        return self.type == "CRASHED" and not self.began and self.at >= since

    @property
    def waiting(self) -> bool:
        """Whether no process has begun the run."""
        return self.type in {"SCHEDULED", "PENDING"}

    @property
    def ended(self) -> bool:
        """Whether the run will do nothing more."""
        return self.type in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a flow run logged."""

    id: str
    at: Epoch
    level: str
    message: str
