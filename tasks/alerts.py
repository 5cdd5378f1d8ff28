"""Alerts about scheduled benchmarks that found a regression or could not run, sent once for each run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from prefect.events import emit_event
from prefect.runtime import flow_run

from core.benchmarks import Benchmark
from core.errors import SeatrialError
from core.ids import BenchmarkId, Epoch
from lifecycle import regressions
from tasks.step import step_task
from wiring import platform

if TYPE_CHECKING:
    from serving.webhook import Webhook

log = structlog.get_logger(__name__)

REGRESSION = "seatrial.benchmark.regression"
FAILURE = "seatrial.benchmark.failed"
_MOST_LOST = 20


@step_task
def raise_alert(benchmark: BenchmarkId) -> str:
    """Respond to a regression that a schedule found, and send the alert to Prefect and the webhook.

    Returns the action, "" without a regression. A run that continues after a kill does the missing part only; the event and the
    delivery carry the benchmark's id, so that a receiver counts them once.
    """
    here = platform()
    row = here.records.benchmarks.get(benchmark)
    if not regressions.is_regression(row):
        return ""
    response = regressions.respond(here.records, here.runs, here.clock, row)
    if not regressions.alerted(here.records, row.id):
        document = alert(row, response, at=here.clock.now(), run_page=f"{here.prefect_page}/runs/flow-run/{flow_run.id}")
        emit_event(REGRESSION, resource(row), payload=document, id=event_id(row, REGRESSION))
        regressions.note_alert(here.records, here.clock, row, delivered=tell(here.alarm, row, document))
    return str(response["action"])


def tell_failure(row: Benchmark) -> None:
    """Tell Prefect that a benchmark could not run: no regression, an event of its own."""
    emit_event(FAILURE, resource(row), payload={"benchmark": row.id, "reason": row.reason[:500]}, id=event_id(row, FAILURE))


def alert(row: Benchmark, response: dict[str, Any], *, at: Epoch, run_page: str) -> dict[str, Any]:
    """Return the alert: numbers, names and pages; never a prompt, an answer or a key."""
    compared = row.comparison
    return {
        "event": REGRESSION,
        "at": datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"),
        "benchmark": row.id,
        "endpoint": row.endpoint,
        "version": row.version,
        "suite": row.plan.suite,
        "pass_at_1": row.numbers.get("pass_at_1"),
        "baseline": row.baseline,
        "baseline_pass_at_1": compared.get("baseline"),
        "difference": compared.get("difference"),
        "interval": [compared.get("low"), compared.get("high")],
        "p_value": compared.get("p_value"),
        "lost": list(compared.get("lost", ()))[:_MOST_LOST],
        "reason": row.reason,
        "action": response["action"],
        "rollback": {name: value for name, value in response.items() if name not in {"action", "endpoint"}},
        "links": {"mlflow": row.run_url, "run": run_page},
        "next": f"seatrial bench show {row.id}",
    }


def tell(alarm: Webhook | None, row: Benchmark, document: dict[str, Any]) -> bool:
    """Send the alert to the webhook; return False when that failed. The alert stays visible elsewhere."""
    if alarm is None:
        return True
    try:
        alarm.tell(row.id, document)
    except SeatrialError as error:
        log.warning("alert.not_told", benchmark=row.id, cause=error.what)
        return False
    return True


def resource(row: Benchmark) -> dict[str, str]:
    """Return what an event is about, as automations match it."""
    return {
        "prefect.resource.id": f"seatrial.endpoint.{row.endpoint}" if row.endpoint else f"seatrial.version.{row.version}",
        "prefect.resource.name": row.endpoint or row.version[:12],
        "seatrial.benchmark": row.id,
        "seatrial.suite": row.plan.suite,
    }


def event_id(row: Benchmark, event: str) -> UUID:
    """Return the id that an event of this benchmark always has: told twice it is one event."""
    return uuid5(NAMESPACE_URL, f"{event}/{row.id}")
