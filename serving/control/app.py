"""The control API, assembled from its routes."""

from __future__ import annotations

from fastapi import FastAPI

from serving.control.context import ControlContext
from serving.control.errors import install
from serving.control.routes import (
    benchmarks,
    endpoints,
    feedback,
    health,
    keys,
    leaderboard,
    metrics,
    models,
    problems,
    rollouts,
    studies,
    submissions,
)

_ABOUT = """Bring a model to an endpoint, watch its trials and its rollout, read what users say of it.

Every call but `/healthz` takes a bearer key. Roles: an *application* sees the endpoints that it may call and its own feedback;
a *submitter* submits, and sees its own submissions, the feedback on them, and all models, endpoints, rollouts, benchmarks and the
leaderboard, and benchmarks its own versions;
an *operator* may all.

Every error is `{"error": {"code", "reason", "message", "hint"}}`. Times are ISO 8601 in UTC.
"""
_GROUPS = (
    submissions, models, leaderboard, endpoints, rollouts, benchmarks, studies, feedback, keys, problems, health, metrics,
)  # fmt: skip


def control(context: ControlContext) -> FastAPI:
    """Return the control API of this context. Its pages of documentation are off (they load from elsewhere); /openapi.json is on."""
    app = FastAPI(title="seatrial", version="1", description=_ABOUT, docs_url=None, redoc_url=None)
    app.state.context = context
    install(app)
    for group in _GROUPS:
        app.include_router(group.routes)
    return app
