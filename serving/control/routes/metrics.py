"""What Prometheus scrapes from the control API: facts of the database that must outlive the process that they describe."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from core.leases import RECONCILE, Lease
from serving.control.dependencies import Context, Operator
from serving.control.errors import RESPONSES

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

routes = APIRouter(tags=["health"], responses=RESPONSES)


@routes.get("/metrics", response_class=PlainTextResponse)
def metrics(context: Context, _caller: Operator) -> PlainTextResponse:
    """Return the metrics in Prometheus' text format. Every control API of one database returns the same values."""
    return PlainTextResponse(page(context.records.leases.get(RECONCILE)), media_type=_CONTENT_TYPE)


def page(reconcile: Lease | None) -> bytes:
    """Return the page for reconcile's row, None before its first pass. Times in seconds since 1970; 0 while no pass has completed.

    A pass of which a part failed has completed too: it shows that the service runs.
    """
    registry = CollectorRegistry()
    completed = Gauge("seatrial_reconcile_last_completed_timestamp_seconds", "When the last reconcile pass ended", registry=registry)
    completed.set(reconcile.ended_at if reconcile else 0.0)
    return generate_latest(registry)
