"""Problems of the platform."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from core.health import Problem, ProblemKind, Severity
from serving.control.schemas.base import Text, View, maybe


class PlatformProblemView(View):
    """One problem: what has it, why, since when, and the command to run next."""

    kind: ProblemKind
    severity: Severity
    subject: Text
    cause: Text
    since: datetime | None
    action: Text

    @classmethod
    def of(cls, problem: Problem) -> PlatformProblemView:
        """Show a problem."""
        return cls(
            kind=problem.kind,
            severity=problem.severity,
            subject=problem.subject,
            cause=problem.cause,
            since=maybe(problem.since),
            action=problem.action,
        )


class ProblemsView(View):
    """All problems, the most urgent first. `healthy` is true while none is more than a notice."""

    at: datetime
    healthy: bool
    problems: list[PlatformProblemView] = Field(description="the most urgent first")
