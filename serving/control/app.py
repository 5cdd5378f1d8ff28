"""The control API, put together."""

from __future__ import annotations

from fastapi import FastAPI

from core.ports import Clock, Engines, FlowRuns, Records
from core.ports.vitals import Vitals
from serving.control import benchmarks, endpoints, feedback, health, keys, metrics, models, status, submissions
from serving.control.desk import Desk, Links
from serving.control.diagnosis import Limits
from serving.control.errors import install
from serving.control.trials import Trials
from serving.control.vitals import NoVitals

__all__ = ["Links", "control"]

_ABOUT = """Bring a model to an endpoint, watch its trials and its rollout, read what users say of it.

Every call but `/healthz` takes a bearer key. Roles: an *application* sees the endpoints that it may call and its own feedback;
a *submitter* submits, and sees its own submissions, the feedback on them, and all models, endpoints, rollouts, benchmarks and the
leaderboard, and benchmarks its own versions;
an *operator* may all.

Every error is `{"error": {"code", "reason", "message", "hint"}}`. Times are ISO 8601 in UTC.
"""


def control(
    records: Records,
    runs: FlowRuns,
    engines: Engines,
    clock: Clock,
    links: Links,
    trials: Trials | None = None,
    vitals: Vitals | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """Return the control API over these ports. Its pages of documentation are off (they load from elsewhere); /openapi.json is on."""
    app = FastAPI(title="seatrial", version="1", description=_ABOUT, docs_url=None, redoc_url=None)
    app.state.desk = Desk(records, runs, engines, clock, links, trials, vitals or NoVitals(), limits or Limits())
    install(app)
    for group in (submissions, models, endpoints, benchmarks, feedback, keys, status, health, metrics):
        app.include_router(group.routes)
    return app
