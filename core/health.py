"""What is wrong with a platform now, as an operator is told at night: kind, subject, cause, since when, and the next command."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.ids import Epoch


class ProblemKind(StrEnum):
    """Every kind of problem that the control API reports."""

    SERVICE_DOWN = "service_down"
    RUNNER_SILENT = "runner_silent"
    ENGINE_FAILED = "engine_failed"
    ENDPOINT_NOT_READY = "endpoint_not_ready"
    ERRORS_HIGH = "errors_high"
    SUBMISSION_STUCK = "submission_stuck"
    SUBMISSION_FAILED = "submission_failed"
    SUBMISSION_REFUSED = "submission_refused"
    ROLLOUT_HELD = "rollout_held"
    ROLLOUT_NEAR_DEADLINE = "rollout_near_deadline"
    ROLLOUT_UNDRIVEN = "rollout_undriven"
    ROLLED_BACK = "rolled_back"
    REGRESSION = "regression"
    BENCHMARK_FAILED = "benchmark_failed"
    BENCHMARK_STUCK = "benchmark_stuck"
    DISK_LOW = "disk_low"
    SPOOL_BACKLOG = "spool_backlog"
    SPOOL_REJECTED = "spool_rejected"


class Severity(StrEnum):
    """`critical`: users are affected. `warning`: they may be soon. `notice`: nothing to do at night; a trial did its work."""

    CRITICAL = "critical"
    WARNING = "warning"
    NOTICE = "notice"


SEVERITY = {
    ProblemKind.SERVICE_DOWN: Severity.CRITICAL,
    ProblemKind.RUNNER_SILENT: Severity.CRITICAL,
    ProblemKind.ENGINE_FAILED: Severity.CRITICAL,
    ProblemKind.ENDPOINT_NOT_READY: Severity.CRITICAL,
    ProblemKind.ERRORS_HIGH: Severity.CRITICAL,
    ProblemKind.SUBMISSION_STUCK: Severity.WARNING,
    ProblemKind.SUBMISSION_FAILED: Severity.WARNING,
    ProblemKind.SUBMISSION_REFUSED: Severity.NOTICE,
    ProblemKind.ROLLOUT_HELD: Severity.WARNING,
    ProblemKind.ROLLOUT_NEAR_DEADLINE: Severity.WARNING,
    ProblemKind.ROLLOUT_UNDRIVEN: Severity.WARNING,
    ProblemKind.ROLLED_BACK: Severity.NOTICE,
    ProblemKind.REGRESSION: Severity.WARNING,
    ProblemKind.BENCHMARK_FAILED: Severity.WARNING,
    ProblemKind.BENCHMARK_STUCK: Severity.WARNING,
    ProblemKind.DISK_LOW: Severity.CRITICAL,
    ProblemKind.SPOOL_BACKLOG: Severity.WARNING,
    ProblemKind.SPOOL_REJECTED: Severity.WARNING,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `subject` names what has it (an endpoint, an id, a service), `action` is a command of `seatrial`."""

    kind: ProblemKind
    subject: str
    cause: str
    since: Epoch | None
    action: str

    @property
    def severity(self) -> Severity:
        """How urgent it is."""
        return SEVERITY[self.kind]


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the platform and why it cannot be used now; `cause` is empty while it answers."""

    name: str
    url: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the home, in bytes."""

    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Spool:
    """What the gateway has written and the database does not have yet. `oldest_at` is None while nothing waits."""

    waiting_bytes: int = 0
    oldest_at: Epoch | None = None
    rejected_lines: int = 0
