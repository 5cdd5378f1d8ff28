"""What happens to a submission: its transition table, and the use cases that write its row.

Nothing else decides a submission's state. Each use case reads the row, asks `next_state`, and stores the result by compare-and-set
(`lifecycle/rows.py`); a driver's writes are fenced by its id (`lifecycle/leases.py`). A driver whose submission has ended changes
nothing and gets the row as it is; a driver that lost the row gets Conflict.

    queued ──claimed──► running ──served──► serving
      │                    │
      │                    ├─refused / rolled_back / withdrawn / failed──► refused / rolled_back / cancelled / failed
      └─cancel_requested───┴──► cancelling ──any end but served──► cancelled
                                     └──served (promoted before the cancellation reached it)──► serving
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from typing import Final

from core.access import Actor
from core.endpoints import RolloutState
from core.errors import Conflict, DiskFull, Exhausted, Fault, NotFound, Refused, SeatrialError, Transient
from core.ids import Epoch, RolloutId, SubmissionId, VersionId
from core.leases import RECONCILE
from core.ports import Clock, FlowRuns, Records
from core.ports.records import AuditEntry
from core.reasons import AnyReason, Reason
from core.submissions import Submission, SubmissionRequest, SubmissionState
from lifecycle.audit import AuditedSubmissions, write_audit
from lifecycle.leases import expect_driver, expect_free
from lifecycle.rows import Repository, update

_LOG = logging.getLogger("seatrial.lifecycle")
_ACTOR: Final = "seatrial"


class Event(StrEnum):
    """What can happen to a submission."""

    CLAIMED = "claimed"
    """A flow run drives it."""
    CANCEL_REQUESTED = "cancel_requested"
    SERVED = "served"
    """Its version serves the endpoint, and everybody was told."""
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    WITHDRAWN = "withdrawn"
    """Its candidate was taken back before a user met it, or it was cancelled."""
    FAILED = "failed"


OPEN: Final = (SubmissionState.QUEUED, SubmissionState.RUNNING, SubmissionState.CANCELLING)
TRANSITIONS: Final[Mapping[tuple[SubmissionState, Event], SubmissionState]] = {
    (SubmissionState.QUEUED, Event.CLAIMED): SubmissionState.RUNNING,
    (SubmissionState.QUEUED, Event.CANCEL_REQUESTED): SubmissionState.CANCELLING,
    (SubmissionState.QUEUED, Event.REFUSED): SubmissionState.REFUSED,
    (SubmissionState.QUEUED, Event.WITHDRAWN): SubmissionState.CANCELLED,
    (SubmissionState.QUEUED, Event.FAILED): SubmissionState.FAILED,
    (SubmissionState.RUNNING, Event.CLAIMED): SubmissionState.RUNNING,
    (SubmissionState.RUNNING, Event.CANCEL_REQUESTED): SubmissionState.CANCELLING,
    (SubmissionState.RUNNING, Event.SERVED): SubmissionState.SERVING,
    (SubmissionState.RUNNING, Event.REFUSED): SubmissionState.REFUSED,
    (SubmissionState.RUNNING, Event.ROLLED_BACK): SubmissionState.ROLLED_BACK,
    (SubmissionState.RUNNING, Event.WITHDRAWN): SubmissionState.CANCELLED,
    (SubmissionState.RUNNING, Event.FAILED): SubmissionState.FAILED,
    (SubmissionState.CANCELLING, Event.CANCEL_REQUESTED): SubmissionState.CANCELLING,
    (SubmissionState.CANCELLING, Event.SERVED): SubmissionState.SERVING,
    (SubmissionState.CANCELLING, Event.REFUSED): SubmissionState.CANCELLED,
    (SubmissionState.CANCELLING, Event.ROLLED_BACK): SubmissionState.CANCELLED,
    (SubmissionState.CANCELLING, Event.WITHDRAWN): SubmissionState.CANCELLED,
    (SubmissionState.CANCELLING, Event.FAILED): SubmissionState.CANCELLED,
}
"""Every transition. What is not listed is illegal; no end state is ever left."""

_EVENTS_OF_REASONS: Final[Mapping[AnyReason, Event]] = {
    Reason.ROLLED_BACK: Event.ROLLED_BACK,
    Reason.WITHDRAWN: Event.WITHDRAWN,
    Reason.SUPERSEDED: Event.WITHDRAWN,
    Reason.CANCELLED: Event.WITHDRAWN,
}
_FAULTS: Final[Mapping[AnyReason, type[SeatrialError]]] = {
    kind.code: kind for kind in (SeatrialError, Transient, Fault, DiskFull, Exhausted)
}


def next_state(state: SubmissionState, event: Event) -> SubmissionState:
    """Return the state after an event. Raises Conflict where the event is illegal."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Conflict(f"the event {event} is not allowed for a submission in state {state}", reason=Reason.ILLEGAL_TRANSITION) from None


def submit(records: Records, runs: FlowRuns, clock: Clock, request: SubmissionRequest, by: Actor, action: str = "submit") -> Submission:
    """Store a submission and start its flow run. The same idempotency key of the same principal returns the first one.

    The row comes first: while the orchestrator is unavailable it waits, and reconcile starts its run later. `action` is the audit
    trail's.
    """
    row = records.submissions.create(request, by.principal, clock.now())
    if row.flow_run or row.state is not SubmissionState.QUEUED:
        return row
    if not records.audit.find(subject=row.id, limit=1):  # an earlier call may have been killed before it wrote the entry, or after it
        write_audit(records, clock, by, action, row.id, model=str(request.model), endpoint=request.endpoint)
    try:
        return start_run(records, runs, clock, row)
    except (Transient, NotFound) as error:
        _LOG.warning("submission %s waits for reconcile: %s", row.id, error)
        return row


def start_run(records: Records, runs: FlowRuns, clock: Clock, row: Submission) -> Submission:
    """Start the submission's next flow run and return its row. The same number of runs again starts no second run.

    Errors: Transient and NotFound (the orchestrator is unavailable), Conflict (another run drives it).
    """
    request = {"submission": row.id, "model": str(row.request.model), "endpoint": row.request.endpoint}
    run = runs.start(row.id, row.runs, request)

    def started(found: Submission) -> Submission:
        if found.state.ended or found.flow_run == run:  # it may have claimed the row already, or even ended it
            return replace(found, runs=max(found.runs, row.runs + 1))
        expect_free(found, clock.now())
        return replace(found, flow_run=run, driver=None, runs=max(found.runs, row.runs + 1))

    return update(records.submissions, row.id, clock.now(), started)


def claim(records: Records, clock: Clock, submission: SubmissionId, run: str, driver: str, lease_s: float) -> Submission:
    """Let the process `driver` of the flow run `run` drive the submission for `lease_s` seconds.

    Conflict when it has ended, is being cancelled, or another driver holds it.
    """

    def claimed(row: Submission) -> Submission:
        now = clock.now()
        if (row.state, Event.CLAIMED) not in TRANSITIONS:
            how = "is being cancelled" if row.state is SubmissionState.CANCELLING else f"is {row.state} already"
            raise Conflict(f"{row.id} {how}; this run changes nothing", hint="submit the model again")
        expect_free(row, now, for_driver=driver)
        return replace(row, state=next_state(row.state, Event.CLAIMED), flow_run=run, driver=driver, lease_until=now + lease_s)

    return update(records.submissions, submission, clock.now(), claimed)


def renew(records: Records, clock: Clock, submission: SubmissionId, driver: str, until: Epoch) -> Submission:
    """Extend the driver's lease. Does nothing once the submission has ended. Conflict when another driver took over."""

    def renewed(row: Submission) -> Submission:
        expect_driver(row, driver, clock.now())
        return row if row.state.ended else replace(row, lease_until=until)

    return update(records.submissions, submission, clock.now(), renewed)


def release(records: Records, clock: Clock, submission: SubmissionId, driver: str) -> Submission:
    """End the driver's lease. Conflict when another driver took over."""

    def released(row: Submission) -> Submission:
        expect_driver(row, driver, clock.now())
        return replace(row, lease_until=0.0)

    return update(records.submissions, submission, clock.now(), released)


def set_version(records: Records, clock: Clock, submission: SubmissionId, version: VersionId, driver: str | None) -> Submission:
    """Note which version the submission brought."""
    return _driven(records, clock, submission, driver, lambda row: replace(row, version=version))


def set_rollout(records: Records, clock: Clock, submission: SubmissionId, rollout: RolloutId, driver: str | None) -> Submission:
    """Note which rollout tries the submission's version."""
    return _driven(records, clock, submission, driver, lambda row: replace(row, rollout=rollout))


def cancel(records: Records, runs: FlowRuns, clock: Clock, submission: SubmissionId, by: Actor) -> Submission:
    """Request the cancellation and stop the flow run where the orchestrator is available; its driver or reconcile ends the submission.

    Cancelling twice changes nothing. Conflict (`already_ended`, `already_promoted`) when it is too late.
    """
    before = records.submissions.get(submission)
    changed = request_cancel(records, clock, submission)
    if changed.revision == before.revision:
        return changed
    write_audit(records, clock, by, "cancel", submission)
    records.leases.call(RECONCILE, clock.now())
    try:
        if changed.flow_run:
            runs.cancel(changed.flow_run)
    except (Transient, NotFound) as error:
        _LOG.warning("submission %s is cancelling and its flow run was not cancelled: %s", submission, error)
    return records.submissions.get(submission)


def request_cancel(records: Records, clock: Clock, submission: SubmissionId) -> Submission:
    """Mark the submission as being cancelled: its driver ends it, or reconcile. Cancelling twice changes nothing.

    Conflict (`already_ended`, `already_promoted`) when it is too late.
    """

    def cancelling(row: Submission) -> Submission:
        if row.state.ended:
            raise Conflict(
                f"submission {row.id} has ended already ({row.state})",
                reason=Reason.ALREADY_ENDED,
                hint=f"to take a serving model back: seatrial rollback {row.request.endpoint}",
            )
        if row.state is not SubmissionState.CANCELLING and promoted(records, row):
            raise Conflict(
                f"submission {row.id} is promoted already: {row.request.endpoint} serves it",
                reason=Reason.ALREADY_PROMOTED,
                hint=f"to take it back: seatrial rollback {row.request.endpoint}",
            )
        return replace(row, state=next_state(row.state, Event.CANCEL_REQUESTED))

    return update(records.submissions, submission, clock.now(), cancelling)


def expect_open(records: Records, submission: SubmissionId) -> None:
    """Raise Refused when the submission is being cancelled: the orchestrator may have been unable to stop its run.

    Conflict when it has ended: reconcile ended it while this process slept through its lease.
    """
    state = records.submissions.get(submission).state
    if state is SubmissionState.CANCELLING:
        raise Refused("the submission was cancelled", reason=Reason.CANCELLED, hint="submit the model again when it is wanted")
    if state.ended:
        raise Conflict(f"{submission} is {state} already; this run changes nothing", hint="submit the model again when it is wanted")


def serve(records: Records, clock: Clock, submission: SubmissionId, message: str, driver: str | None) -> Submission:
    """End the submission as serving, with an entry of the audit trail. Conflict when its endpoint has never served its version."""

    def served(row: Submission) -> Submission:
        if not promoted(records, row) and records.endpoints.get(row.request.endpoint).stable != row.version:
            raise Conflict(f"{row.request.endpoint} does not serve the version of {row.id}", reason=Reason.NOT_PROMOTED)
        return replace(row, state=next_state(row.state, Event.SERVED), reason=None, message=message, hint="")

    def entry(row: Submission) -> AuditEntry:
        return AuditEntry(clock.now(), _ACTOR, "serving", row.request.endpoint, {"submission": row.id, "version": row.version})

    return _driven(records, clock, submission, driver, served, entry)


def begin_end(records: Records, clock: Clock, submission: SubmissionId, error: SeatrialError, driver: str | None) -> Submission:
    """Write down why the submission ends, before anything is undone; a run that continues after a kill ends it for the same reason.

    An earlier reason is kept; a cancellation comes before all of them. Without `driver` the row is taken from a driver whose lease
    expired: should that process live after all, it can write nothing more to the row.
    """

    def beginning(row: Submission) -> Submission:
        why = ending(row) or error
        if isinstance(why, Transient):
            why = Exhausted.after(why, 1)  # from outside a step, whose own retries end otherwise
        return replace(row, reason=reason_of(why), message=why.what, hint=why.hint, driver=driver)

    return _driven(records, clock, submission, driver, beginning)


def end(records: Records, clock: Clock, submission: SubmissionId, error: SeatrialError, driver: str | None) -> Submission:
    """Write the end state that `error` means, with an entry of the audit trail.

    A submission that was promoted already ends as serving, whatever failed or was requested afterwards.
    """

    def ended(row: Submission) -> Submission:
        if not promoted(records, row):
            return replace(row, state=next_state(row.state, event_of(error)), lease_until=0.0)
        name = row.request.endpoint
        why = "cancelled too late" if row.state is SubmissionState.CANCELLING else f"a step after the promotion failed: {error.what}"
        hint = f"take it back with `seatrial rollback {name}`"
        state = next_state(row.state, Event.SERVED)
        return replace(row, state=state, lease_until=0.0, reason=None, message=f"{why}; {name} serves it", hint=hint)

    def entry(row: Submission) -> AuditEntry:
        return AuditEntry(clock.now(), _ACTOR, str(row.state), row.id, {"reason": reason_of(error), "message": error.what})

    return _driven(records, clock, submission, driver, ended, entry)


def ending(row: Submission) -> SeatrialError | None:
    """Return the error that an open submission is being ended with, None when nothing ends it. A cancellation comes before all others."""
    if row.reason is None or row.state.ended or row.state is SubmissionState.CANCELLING:
        return None
    fault = _FAULTS.get(row.reason)
    return fault(row.message, hint=row.hint) if fault else Refused(row.message, reason=row.reason, hint=row.hint)


def event_of(error: SeatrialError) -> Event:
    """Return the event that an error means for its submission."""
    if isinstance(error, Refused):
        return _EVENTS_OF_REASONS.get(error.reason, Event.REFUSED)
    return Event.REFUSED if isinstance(error, DiskFull) else Event.FAILED


def reason_of(error: SeatrialError) -> AnyReason:
    """Return the value for programs that an ended submission carries."""
    return error.reason if isinstance(error, Refused) else error.code


def promoted(records: Records, row: Submission) -> bool:
    """Return whether the submission's own rollout was promoted."""
    return row.rollout is not None and records.rollouts.get(row.rollout).state is RolloutState.PROMOTED


def _driven(
    records: Records,
    clock: Clock,
    submission: SubmissionId,
    driver: str | None,
    decide: Callable[[Submission], Submission],
    entry: Callable[[Submission], AuditEntry] | None = None,
) -> Submission:
    """Change the row as its driver, with the entry of the audit trail that belongs to the change.

    A row that has ended stays as it is. Conflict when the driver lost it, also when it has ended since.
    """

    def changed(row: Submission) -> Submission:
        if row.state.ended and driver in {None, row.driver}:
            return row
        expect_driver(row, driver, clock.now())
        return decide(row)

    rows: Repository[SubmissionId, Submission] = AuditedSubmissions(records.submissions, entry) if entry else records.submissions
    return update(rows, submission, clock.now(), changed)
