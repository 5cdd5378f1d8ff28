"""Submissions and their steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, RowMapping, Update, or_, select, update

from core.errors import NotFound, Stale
from core.ids import EndpointName, Epoch, PrincipalId, SubmissionId, new_id
from core.ports.records import AuditEntry
from core.reasons import Reason, read_reason
from core.submissions import Step, StepName, StepState, Submission, SubmissionRequest, SubmissionState
from core.versions import ModelRef
from registry.codec import plain
from registry.database.audit import append
from registry.database.connection import Connections
from registry.database.tables import steps, submissions
from registry.database.upsert import insert_new, replacing, upsert

_CHANGE = ("state", "version", "rollout", "message", "hint", "flow_run", "runs", "driver", "lease_until")
ENDS = [state for state in SubmissionState if state.ended]
"""States that are never left."""
_CUT_SHORT = frozenset(ENDS) - {SubmissionState.SERVING}
_ORDER = {name: place for place, name in enumerate(StepName)}


class SubmissionsTable:
    """Implements `Submissions`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def create(self, request: SubmissionRequest, submitter: PrincipalId, now: Epoch) -> Submission:
        """Enter a new one, queued, or return the one of the same idempotency key."""
        row = _new_row(request, submitter, now)
        with self._connections.write() as connection:
            insert_new(connection, submissions, [row])
            query = select(submissions).where(submissions.c.id == row["id"])
            if request.idempotency_key is not None:
                query = select(submissions).where(
                    submissions.c.submitter == submitter, submissions.c.idempotency_key == request.idempotency_key
                )
            found = connection.execute(query).mappings().one()
            return _submission(found, _steps(connection, found["id"]))

    def get(self, submission: SubmissionId) -> Submission:
        """Return it with its steps."""
        with self._connections.read() as connection:
            return _get(connection, submission)

    def find(
        self,
        *,
        states: Iterable[SubmissionState] = (),
        endpoint: EndpointName | None = None,
        submitter: PrincipalId | None = None,
        limit: int = 100,
    ) -> tuple[Submission, ...]:
        """Return those that match, newest first."""
        query = select(submissions).order_by(submissions.c.created_at.desc(), submissions.c.id.desc()).limit(limit)
        if wanted := list(states):
            query = query.where(submissions.c.state.in_(wanted))
        if endpoint is not None:
            query = query.where(submissions.c.endpoint == endpoint)
        if submitter is not None:
            query = query.where(submissions.c.submitter == submitter)
        with self._connections.read() as connection:
            return tuple(_submission(row, ()) for row in connection.execute(query).mappings())

    def step(self, submission: SubmissionId, step: Step) -> None:
        """Enter a step or replace the one of its name."""
        row = plain(step) | {"submission": submission}
        with self._connections.write() as connection:
            if connection.execute(select(submissions.c.id).where(submissions.c.id == submission)).one_or_none() is None:
                raise _unknown(submission)
            upsert(connection, steps, [row], replacing(steps))

    def store(self, submission: Submission, now: Epoch, entry: AuditEntry | None = None) -> Submission:
        """Store the row, and the entry with it, if the row's revision is still the one that was read."""
        mine = submissions.c
        own = {name: getattr(submission, name) for name in _CHANGE}
        values = own | {"reason": submission.reason or "", "updated_at": now, "row_revision": submission.revision + 1}
        stays = or_(mine.state.not_in(ENDS), mine.state == submission.state)
        query = update(submissions).where(mine.id == submission.id, mine.row_revision == submission.revision, stays).values(**values)
        with self._connections.write() as connection:
            stored = connection.execute(query).rowcount
            row = _get(connection, submission.id)
            if not stored:
                raise Stale(f"submission {row.id} is at revision {row.revision} ({row.state}), not {submission.revision}")
            if submission.state in _CUT_SHORT:
                connection.execute(_end_open_steps(submission.id, now))
                row = _get(connection, submission.id)
            if entry is not None:
                append(connection, entry)
            return row


def _end_open_steps(submission: SubmissionId, now: Epoch) -> Update:
    """Fail the step that a killed or cancelled run left open: nothing runs of a submission that has ended."""
    ours = (steps.c.submission == submission) & steps.c.state.in_([StepState.RUNNING, StepState.RETRYING])
    return update(steps).where(ours).values(state=StepState.FAILED, ended_at=now)


def _get(connection: Connection, submission: SubmissionId) -> Submission:
    row = connection.execute(select(submissions).where(submissions.c.id == submission)).mappings().one_or_none()
    if row is None:
        raise _unknown(submission)
    return _submission(row, _steps(connection, submission))


def _steps(connection: Connection, submission: SubmissionId) -> tuple[Step, ...]:
    rows = connection.execute(select(steps).where(steps.c.submission == submission)).mappings()
    return tuple(sorted((_step(row) for row in rows), key=lambda step: _ORDER[step.name]))


def _step(row: RowMapping) -> Step:
    values = {name: row[name] for name in ("attempt", "started_at", "ended_at", "progress", "message", "detail")}
    return Step(name=StepName(row["name"]), state=StepState(row["state"]), **values)


def _new_row(request: SubmissionRequest, submitter: PrincipalId, now: Epoch) -> dict[str, Any]:
    return {
        "id": new_id("sub"),
        "source": request.model.source,
        "revision": request.model.revision,
        "endpoint": request.endpoint,
        "idempotency_key": request.idempotency_key,
        "note": request.note,
        "submitter": submitter,
        "state": SubmissionState.QUEUED,
        "created_at": now,
        "updated_at": now,
        "reason": "",
        "message": "",
        "hint": "",
        "runs": 0,
        "lease_until": 0.0,
    }


_OWN = (
    *("id", "submitter", "created_at", "updated_at", "version", "rollout"),
    *("message", "hint", "flow_run", "runs", "driver", "lease_until"),
)


def _submission(row: RowMapping, done: tuple[Step, ...]) -> Submission:
    request = SubmissionRequest(
        model=ModelRef(row["source"], row["revision"]), endpoint=row["endpoint"], idempotency_key=row["idempotency_key"], note=row["note"]
    )
    own = {name: row[name] for name in _OWN}
    reason = read_reason(row["reason"]) if row["reason"] else None
    state = SubmissionState(row["state"])
    return Submission(request=request, state=state, steps=done, revision=row["row_revision"], reason=reason, **own)


def _unknown(submission: SubmissionId) -> NotFound:
    return NotFound(f"there is no submission {submission}", reason=Reason.NO_SUBMISSION, hint="`seatrial status` lists yours")
