"""Routes of model versions: find."""

from __future__ import annotations

from fastapi import APIRouter

from core.ids import VersionId
from serving.control.dependencies import Context, Submitter
from serving.control.errors import RESPONSES
from serving.control.schemas.models import ModelDetail, ModelView
from serving.control.schemas.parameters import IdPart, Limit

routes = APIRouter(prefix="/v1", tags=["models"], responses=RESPONSES)


@routes.get("/models")
def find(context: Context, _caller: Submitter, limit: Limit = 100) -> list[ModelView]:
    """List model versions, newest first."""
    return [ModelView.of(version, context.links.model(version)) for version in context.records.versions.find(limit=limit)]


@routes.get("/models/{version}")
def get(version: IdPart, context: Context, _caller: Submitter) -> ModelDetail:
    """Return one version with its trials' reports. A unique prefix of 8 or more characters of its id is enough."""
    found = context.records.versions.get(VersionId(version))
    return ModelDetail.with_reports(found, context.links.model(found), context.records.versions.reports(found.id))
