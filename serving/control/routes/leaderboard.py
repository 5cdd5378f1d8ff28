"""Route of the leaderboard, which ranks model versions."""

from __future__ import annotations

from fastapi import APIRouter

from core.errors import NotFound
from core.ids import VersionId
from core.ports.records import Standing
from core.submissions import Submission, endpoint_name
from core.versions import ModelVersion, TrialKind
from serving.control.context import ControlContext
from serving.control.dependencies import Context, Submitter
from serving.control.errors import RESPONSES
from serving.control.schemas.leaderboard import StandingView
from serving.control.schemas.parameters import NameQuery

routes = APIRouter(prefix="/v1", tags=["models"], responses=RESPONSES)


@routes.get("/leaderboard")
def leaderboard(context: Context, _caller: Submitter, endpoint: NameQuery = None) -> list[StandingView]:
    """Rank versions that answered: by benchmark, then by the part of thumbs that are up, then by conversations."""
    submitted = _submitted(context)
    rows = [
        _row(context, standing, submitted)
        for standing in context.records.conversations.leaderboard()
        if endpoint is None or standing.endpoint == endpoint_name(endpoint)
    ]
    return sorted(rows, key=_rank)


def _rank(row: StandingView) -> tuple[float, float, int, str]:
    votes = row.thumbs_up + row.thumbs_down
    liked = row.thumbs_up / votes if votes else 0.0
    return (-(row.pass_at_1 if row.pass_at_1 is not None else -1.0), -liked, -row.conversations, row.version)


def _submitted(context: ControlContext) -> dict[VersionId, Submission]:
    """Return the first submission that brought each version."""
    return {found.version: found for found in context.records.submissions.find(limit=10_000) if found.version}


def _row(context: ControlContext, standing: Standing, submitted: dict[VersionId, Submission]) -> StandingView:
    submission = submitted.get(standing.version)
    version = _known(context, standing.version)
    scores = context.records.versions.reports(standing.version, TrialKind.BENCHMARK)
    return StandingView(
        endpoint=standing.endpoint,
        version=standing.version,
        model=f"{version.source}@{version.commit[:8]}" if version else "",
        submitter=context.names().get(submission.submitter, "") if submission else "",
        pass_at_1=scores[0].numbers.get("pass_at_1") if scores else None,
        thumbs_up=standing.thumbs_up,
        thumbs_down=standing.thumbs_down,
        conversations=standing.conversations,
        completions=standing.completions,
        prompt_tokens=standing.usage.prompt_tokens,
        completion_tokens=standing.usage.completion_tokens,
        loops=standing.loops,
        errors=standing.errors,
    )


def _known(context: ControlContext, version: VersionId) -> ModelVersion | None:
    try:
        return context.records.versions.get(version)
    except NotFound:
        return None
