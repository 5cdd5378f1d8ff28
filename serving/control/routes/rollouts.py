"""Routes of rollouts: find."""

from __future__ import annotations

from fastapi import APIRouter

from core.ids import RolloutId
from core.submissions import endpoint_name
from serving.control.dependencies import Context, Submitter
from serving.control.errors import RESPONSES
from serving.control.schemas.parameters import IdPart, Limit, NameQuery
from serving.control.schemas.rollouts import RolloutView

routes = APIRouter(prefix="/v1", tags=["endpoints"], responses=RESPONSES)


@routes.get("/rollouts")
def find_rollouts(context: Context, _caller: Submitter, endpoint: NameQuery = None, limit: Limit = 100) -> list[RolloutView]:
    """List rollouts, newest first."""
    name = endpoint_name(endpoint) if endpoint else None
    return [RolloutView.of(rollout) for rollout in context.records.rollouts.find(endpoint=name, limit=limit)]


@routes.get("/rollouts/{rollout_id}")
def get_rollout(rollout_id: IdPart, context: Context, _caller: Submitter) -> RolloutView:
    """Return one rollout with its verdict's numbers."""
    return RolloutView.of(context.records.rollouts.get(RolloutId(rollout_id)))
