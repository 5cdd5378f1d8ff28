"""Routes of the operator's question at night: what is wrong, why, and what to do."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field

from core.health import Problem, ProblemKind, Severity
from serving.control.access import Operator
from serving.control.desk import TheDesk
from serving.control.diagnosis import Diagnosis
from serving.control.errors import RESPONSES
from serving.control.wire import Text, View, maybe, moment

routes = APIRouter(prefix="/v1", tags=["health"], responses=RESPONSES)


class ProblemView(View):
    """One problem: what has it, why, since when, and the command to run next."""

    kind: ProblemKind
    severity: Severity
    subject: Text
    cause: Text
    since: datetime | None
    action: Text

    @classmethod
    def of(cls, problem: Problem) -> ProblemView:
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
    problems: list[ProblemView] = Field(description="the most urgent first")


@routes.get("/problems")
def problems(desk: TheDesk, _caller: Operator) -> ProblemsView:
    """Look at records, engines, services, disk and spool, and return what is wrong. Takes a few seconds while a service is down."""
    found = Diagnosis(desk.records, desk.engines, desk.clock, desk.vitals, desk.limits).problems()
    healthy = all(problem.severity is Severity.NOTICE for problem in found)
    return ProblemsView(at=moment(desk.clock.now()), healthy=healthy, problems=[ProblemView.of(problem) for problem in found])
