"""What happens when a scheduled benchmark finds a regression, or cannot run: each run tells once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from prefect.events import emit_event
from prefect.runtime import flow_run

from core.access import Caller, Role
from core.benchmarks import Benchmark, Trigger
from core.endpoints import Endpoint, OnRegression, RolloutState
from core.errors import Conflict, NotFound, SeatrialError
from core.ids import BenchmarkId, KeyId
from core.ports.records import AuditEntry
from core.versions import Decision
from serving.control.endpoints import back_to_previous
from tasks.step import step_task
from wiring import Platform, platform

log = structlog.get_logger(__name__)

REGRESSION = "seatrial.benchmark.regression"
FAILURE = "seatrial.benchmark.failed"
_FOUND, _TOLD, _UNTOLD = "regression", "regression told", "regression not told"
_MOST_LOST = 20


@step_task
def raise_alert(benchmark: BenchmarkId) -> str:
    """Tell of a regression that a schedule found: roll back where the endpoint says so, write it down, tell Prefect and the webhook.

    Returns what was done, "" where there is nothing to tell. Done again (a run that was killed in the middle) it does what is missing;
    the event and the delivery carry the benchmark's own id, so that a receiver sees them once.
    """
    here = platform()
    row = here.records.benchmarks.get(benchmark)
    if row.trigger is not Trigger.SCHEDULE or row.decision is not Decision.FAIL:
        return ""
    trail = {entry.action: entry for entry in here.records.audit.find(subject=benchmark)}
    if _FOUND not in trail:
        action, detail = act(here, row)
        entry = AuditEntry(here.clock.now(), "seatrial", _FOUND, benchmark, {"endpoint": row.endpoint, "action": action, **detail})
        here.records.audit.add(entry)
        trail[_FOUND] = entry
    found = trail[_FOUND].detail
    if _TOLD not in trail and _UNTOLD not in trail:
        document = alert(here, row, found)
        emit_event(REGRESSION, resource(row), payload=document, id=event_id(row, REGRESSION))
        told = tell(here, row, document)
        here.records.audit.add(AuditEntry(here.clock.now(), "seatrial", _TOLD if told else _UNTOLD, benchmark, {"endpoint": row.endpoint}))
    return str(found["action"])


def tell_failure(row: Benchmark) -> None:
    """Tell Prefect that a benchmark could not run: no regression, an event of its own."""
    emit_event(FAILURE, resource(row), payload={"benchmark": row.id, "reason": row.reason[:500]}, id=event_id(row, FAILURE))


def act(here: Platform, row: Benchmark) -> tuple[str, dict[str, Any]]:
    """Roll the endpoint back where its policy says so and it can be; return ("rollback" or "alert", what and why)."""
    try:
        endpoint = here.records.endpoints.get(row.endpoint) if row.endpoint else None
    except NotFound:
        endpoint = None
    if endpoint is None or endpoint.policy.on_regression is not OnRegression.ROLLBACK:
        return "alert", {}
    hindrance = _hindrance(here, endpoint, row)
    if hindrance:
        return "alert", {"not_rolled_back": hindrance}
    principal = here.records.access.principal("seatrial", here.clock.now())
    caller = Caller(KeyId("benchmark"), principal.id, principal.name, Role.OPERATOR)
    try:
        done = back_to_previous(here.desk(), caller, endpoint, f"regression-{row.id}")
    except Conflict as error:
        return "alert", {"not_rolled_back": error.what}
    return "rollback", {"submission": done.submission.id if done.submission else None, "to": endpoint.previous, "from": row.version}


def _hindrance(here: Platform, endpoint: Endpoint, row: Benchmark) -> str:
    """Return why a rollback would not help, or "": another version serves by now, a rollout runs, or the version before regressed too."""
    if endpoint.stable != row.version:
        return "the endpoint serves another version by now"
    states = [state for state in RolloutState if not state.ended]
    if here.records.rollouts.find(endpoint=endpoint.name, states=states, limit=1):
        return "a rollout is on its way"
    runs = here.records.benchmarks.find(version=endpoint.previous, trigger=Trigger.SCHEDULE, limit=1) if endpoint.previous else ()
    if any(run.decision is Decision.FAIL for run in runs):
        return "the version before regressed too"
    return ""


def alert(here: Platform, row: Benchmark, found: dict[str, Any]) -> dict[str, Any]:
    """Return what is told: numbers, names and pages; never a prompt, an answer or a key."""
    compared = row.comparison
    return {
        "event": REGRESSION,
        "at": datetime.fromtimestamp(here.clock.now(), UTC).isoformat().replace("+00:00", "Z"),
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
        "action": found["action"],
        "rollback": {name: value for name, value in found.items() if name not in {"action", "endpoint"}},
        "links": {"mlflow": row.run_url, "run": f"{here.prefect_page}/runs/flow-run/{flow_run.id}"},
        "next": f"seatrial bench show {row.id}",
    }


def tell(here: Platform, row: Benchmark, document: dict[str, Any]) -> bool:
    """Send the alert to the webhook; return False when that failed. The alert stays visible elsewhere."""
    if here.alarm is None:
        return True
    try:
        here.alarm.tell(row.id, document)
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
