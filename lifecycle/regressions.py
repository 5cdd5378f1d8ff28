"""The response to a regression that a scheduled benchmark found: an alert, and a rollback where the endpoint's policy requests one.

The audit trail of the benchmark records which part is done, so that a run that continues after a kill does the rest only. A rollback is
recognised by the idempotency key of its submission: it is recorded as one although the endpoint has changed because of it.
"""

from __future__ import annotations

from typing import Any, Final

from core.access import Actor
from core.benchmarks import Benchmark, Trigger
from core.endpoints import OPEN_ROLLOUTS, Endpoint, OnRegression
from core.errors import Conflict, NotFound
from core.ids import BenchmarkId
from core.ports import Clock, FlowRuns, Records
from core.ports.records import AuditEntry
from core.submissions import Submission
from core.versions import Decision
from lifecycle.rollback import submit_previous
from lifecycle.submissions import submit

_ACTOR: Final = "seatrial"
_FOUND, _TOLD, _UNTOLD = "regression", "regression told", "regression not told"


def is_regression(row: Benchmark) -> bool:
    """Return whether a schedule found that the version became worse."""
    return row.trigger is Trigger.SCHEDULE and row.decision is Decision.FAIL


def respond(records: Records, runs: FlowRuns, clock: Clock, row: Benchmark) -> dict[str, Any]:
    """Respond to the regression once, and return the stored response: `endpoint`, `action` ("rollback" or "alert") and its details."""
    known = _trail(records, row.id).get(_FOUND)
    if known is not None:
        return known.detail
    action, detail = _act(records, runs, clock, row)
    response = {"endpoint": row.endpoint, "action": action, **detail}
    records.audit.add(AuditEntry(clock.now(), _ACTOR, _FOUND, row.id, response))
    return response


def alerted(records: Records, benchmark: BenchmarkId) -> bool:
    """Return whether the alert was sent, or sending it was given up."""
    return bool({_TOLD, _UNTOLD} & _trail(records, benchmark).keys())


def note_alert(records: Records, clock: Clock, row: Benchmark, *, delivered: bool) -> None:
    """Record that the alert was sent, or that its delivery failed."""
    records.audit.add(AuditEntry(clock.now(), _ACTOR, _TOLD if delivered else _UNTOLD, row.id, {"endpoint": row.endpoint}))


def _trail(records: Records, benchmark: BenchmarkId) -> dict[str, AuditEntry]:
    return {entry.action: entry for entry in records.audit.find(subject=benchmark)}


def _act(records: Records, runs: FlowRuns, clock: Clock, row: Benchmark) -> tuple[str, dict[str, Any]]:
    """Roll the endpoint back where its policy requests it and a rollback helps; return ("rollback" or "alert", details)."""
    principal = records.access.principal("seatrial", clock.now())
    by = Actor(principal.id, principal.name, f"{principal.name} (benchmark)")
    endpoint, key = _endpoint(records, row), f"regression-{row.id}"
    begun = _submitted(records, row, by, key)
    if begun is not None:
        submission = submit(records, runs, clock, begun.request, by, "rollback")  # starts its run where the kill came before that
        to = submission.version or (endpoint and endpoint.previous)
        return "rollback", {"submission": submission.id, "to": to, "from": row.version}
    if endpoint is None or endpoint.policy.on_regression is not OnRegression.ROLLBACK:
        return "alert", {}
    hindrance = _hindrance(records, endpoint, row)
    if hindrance:
        return "alert", {"not_rolled_back": hindrance}
    try:
        submission = submit_previous(records, runs, clock, endpoint, key, by)
    except Conflict as error:
        return "alert", {"not_rolled_back": error.what}
    return "rollback", {"submission": submission.id, "to": endpoint.previous, "from": row.version}


def _endpoint(records: Records, row: Benchmark) -> Endpoint | None:
    """Return the benchmark's endpoint, None where it has none or it was removed."""
    try:
        return records.endpoints.get(row.endpoint) if row.endpoint else None
    except NotFound:
        return None


def _submitted(records: Records, row: Benchmark, by: Actor, key: str) -> Submission | None:
    """Return the rollback that an earlier response to this regression submitted."""
    rollbacks = records.submissions.find(endpoint=row.endpoint, submitter=by.principal)
    return next((found for found in rollbacks if found.request.idempotency_key == key), None)


def _hindrance(records: Records, endpoint: Endpoint, row: Benchmark) -> str:
    """Return why a rollback would not help, or "": another version serves by now, a rollout runs, or the version before regressed too."""
    if endpoint.stable != row.version:
        return "the endpoint serves another version by now"
    if records.rollouts.find(endpoint=endpoint.name, states=OPEN_ROLLOUTS, limit=1):
        return "a rollout is on its way"
    runs = records.benchmarks.find(version=endpoint.previous, trigger=Trigger.SCHEDULE, limit=1) if endpoint.previous else ()
    if any(run.decision is Decision.FAIL for run in runs):
        return "the version before regressed too"
    return ""
