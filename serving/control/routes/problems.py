"""Route of the platform's problems: each with its cause and the command to run next."""

from __future__ import annotations

from fastapi import APIRouter

from core.health import Severity
from serving.control.dependencies import Context, Operator
from serving.control.errors import RESPONSES
from serving.control.platform_problems import ProblemFinder
from serving.control.schemas.base import moment
from serving.control.schemas.problems import PlatformProblemView, ProblemsView

routes = APIRouter(prefix="/v1", tags=["health"], responses=RESPONSES)


@routes.get("/problems")
def problems(context: Context, _caller: Operator) -> ProblemsView:
    """Look at records, engines, services, disk and spool, and return what is wrong. Takes a few seconds while a service is down."""
    found = ProblemFinder(context.records, context.engines, context.clock, context.probes, context.thresholds).problems()
    healthy = all(problem.severity is Severity.NOTICE for problem in found)
    return ProblemsView(at=moment(context.clock.now()), healthy=healthy, problems=[PlatformProblemView.of(problem) for problem in found])
