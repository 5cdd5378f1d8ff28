"""Route of the leaderboard, which ranks model versions."""

from __future__ import annotations

from fastapi import APIRouter

from core.errors import NotFound
from core.ids import VersionId
from core.ports.records import LeaderboardRow
from core.submissions import Submission, endpoint_name
from core.versions import ModelVersion, TrialKind
from serving.control.context import ControlContext
from serving.control.dependencies import Context, Submitter
from serving.control.errors import RESPONSES
from serving.control.schemas.leaderboard import LeaderboardRowView
from serving.control.schemas.parameters import NameQuery

routes = APIRouter(prefix="/v1", tags=["models"], responses=RESPONSES)


@routes.get("/leaderboard")
def leaderboard(context: Context, _caller: Submitter, endpoint: NameQuery = None) -> list[LeaderboardRowView]:
    """Rank versions that answered: by benchmark, then by the part of thumbs that are up, then by conversations."""
    submitted = _submitted(context)
    rows = [
        _row(context, counts, submitted)
        for counts in context.records.conversations.leaderboard()
        if endpoint is None or counts.endpoint == endpoint_name(endpoint)
    ]
    return sorted(rows, key=_rank)


def _rank(row: LeaderboardRowView) -> tuple[float, float, int, str]:
    votes = row.thumbs_up + row.thumbs_down
    liked = row.thumbs_up / votes if votes else 0.0
    return (-(row.pass_at_1 if row.pass_at_1 is not None else -1.0), -liked, -row.conversations, row.version)


def _submitted(context: ControlContext) -> dict[VersionId, Submission]:
    """Return the first submission that brought each version."""
    return {found.version: found for found in context.records.submissions.find(limit=10_000) if found.version}


def _row(context: ControlContext, counts: LeaderboardRow, submitted: dict[VersionId, Submission]) -> LeaderboardRowView:
    submission = submitted.get(counts.version)
    version = _known(context, counts.version)
    scores = context.records.versions.reports(counts.version, TrialKind.BENCHMARK)
    return LeaderboardRowView(
        endpoint=counts.endpoint,
        version=counts.version,
        model=f"{version.source}@{version.commit[:8]}" if version else "",
        submitter=context.names().get(submission.submitter, "") if submission else "",
        pass_at_1=scores[0].numbers.get("pass_at_1") if scores else None,
        thumbs_up=counts.thumbs_up,
        thumbs_down=counts.thumbs_down,
        conversations=counts.conversations,
        completions=counts.completions,
        prompt_tokens=counts.usage.prompt_tokens,
        completion_tokens=counts.usage.completion_tokens,
        loops=counts.loops,
        nonsense=counts.nonsense,
        errors=counts.errors,
    )


def _known(context: ControlContext, version: VersionId) -> ModelVersion | None:
    try:
        return context.records.versions.get(version)
    except NotFound:
        return None
