"""Routes of model versions, and the leaderboard that ranks them."""

from __future__ import annotations

from fastapi import APIRouter

from core.errors import NotFound
from core.ids import VersionId
from core.ports.records import LeaderboardRow
from core.submissions import Submission, endpoint_name
from core.versions import ModelVersion, TrialKind
from serving.control.access import Submitter
from serving.control.asks import IdPart, Limit, NameQuery
from serving.control.desk import Desk, TheDesk
from serving.control.errors import RESPONSES
from serving.control.traffic import LeaderboardRowView
from serving.control.views import ModelDetail, ModelView

routes = APIRouter(prefix="/v1", tags=["models"], responses=RESPONSES)


@routes.get("/models")
def find(desk: TheDesk, _caller: Submitter, limit: Limit = 100) -> list[ModelView]:
    """List model versions, newest first."""
    return [ModelView.of(version, desk.links.model(version)) for version in desk.records.versions.find(limit=limit)]


@routes.get("/models/{version}")
def get(version: IdPart, desk: TheDesk, _caller: Submitter) -> ModelDetail:
    """Return one version with its trials' reports. A unique prefix of 8 or more characters of its id is enough."""
    found = desk.records.versions.get(VersionId(version))
    return ModelDetail.with_reports(found, desk.links.model(found), desk.records.versions.reports(found.id))


@routes.get("/leaderboard")
def leaderboard(desk: TheDesk, _caller: Submitter, endpoint: NameQuery = None) -> list[LeaderboardRowView]:
    """Rank versions that answered: by benchmark, then by the part of thumbs that are up, then by conversations."""
    submitted = _submitted(desk)
    rows = [
        _row(desk, counts, submitted)
        for counts in desk.records.conversations.leaderboard()
        if endpoint is None or counts.endpoint == endpoint_name(endpoint)
    ]
    return sorted(rows, key=_rank)


def _rank(row: LeaderboardRowView) -> tuple[float, float, int, str]:
    votes = row.thumbs_up + row.thumbs_down
    liked = row.thumbs_up / votes if votes else 0.0
    return (-(row.pass_at_1 if row.pass_at_1 is not None else -1.0), -liked, -row.conversations, row.version)


def _submitted(desk: Desk) -> dict[VersionId, Submission]:
    """Return the first submission that brought each version."""
    return {found.version: found for found in desk.records.submissions.find(limit=10_000) if found.version}


def _row(desk: Desk, counts: LeaderboardRow, submitted: dict[VersionId, Submission]) -> LeaderboardRowView:
    submission = submitted.get(counts.version)
    version = _known(desk, counts.version)
    scores = desk.records.versions.reports(counts.version, TrialKind.BENCHMARK)
    return LeaderboardRowView(
        endpoint=counts.endpoint,
        version=counts.version,
        model=f"{version.source}@{version.commit[:8]}" if version else "",
        submitter=desk.names().get(submission.submitter, "") if submission else "",
        pass_at_1=scores[0].numbers.get("pass_at_1") if scores else None,
        thumbs_up=counts.thumbs_up,
        thumbs_down=counts.thumbs_down,
        conversations=counts.conversations,
        completions=counts.completions,
        prompt_tokens=counts.usage.prompt_tokens,
        completion_tokens=counts.usage.completion_tokens,
        loops=counts.loops,
        errors=counts.errors,
    )


def _known(desk: Desk, version: VersionId) -> ModelVersion | None:
    try:
        return desk.records.versions.get(version)
    except NotFound:
        return None
