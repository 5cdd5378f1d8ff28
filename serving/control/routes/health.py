"""Whether the control API can do its work."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from serving.control.dependencies import Context
from serving.control.errors import ErrorBody

routes = APIRouter(tags=["health"], responses={503: {"model": ErrorBody, "description": "The database is unavailable"}})


class Health(BaseModel):
    """It works: the database answers."""

    status: Literal["ok"] = "ok"


@routes.get("/healthz")
def healthz(context: Context) -> Health:
    """Answer 200 while the database does. Takes no key."""
    context.records.gateways.generation()
    return Health()
