"""How a submission ends otherwise than serving: the candidate withdrawn, nothing left staged, the reason told."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from prefect import task

from core.benchmarks import BenchmarkState
from core.endpoints import RolloutState, Withdrawal
from core.errors import Conflict, DiskFull, Exhausted, Fault, NotFound, Refused, SeatrialError, Transient
from core.ids import Digest, SubmissionId
from core.ports.records import AuditEntry
from core.submissions import StepName, Submission, SubmissionState
from tasks.notes import run_log
from tasks.pages import leave_pages
from tasks.prepare import intake
from tasks.settle import settle_engines
from tasks.step import BACKOFF_S, is_transient
from wiring import Platform, platform

_ENDS = {"rolled_back": SubmissionState.ROLLED_BACK, "withdrawn": SubmissionState.CANCELLED, "cancelled": SubmissionState.CANCELLED}
_FAULTS: Mapping[str, type[SeatrialError]] = {kind.code: kind for kind in (SeatrialError, Transient, Fault, DiskFull, Exhausted)}
_OPEN = (SubmissionState.QUEUED, SubmissionState.RUNNING, SubmissionState.CANCELLING)


@task(
    task_run_name="finish",
    retries=len(BACKOFF_S),
    retry_delay_seconds=BACKOFF_S,
    retry_condition_fn=is_transient,
)
def finish(submission: SubmissionId, error: SeatrialError) -> SubmissionState:
    """End the submission as `end_submission` does, and show the outcome on Prefect's page."""
    here = platform()
    ended = end_submission(here, submission, error)
    leave_pages(here, submission)
    return ended.state


def end_submission(here: Platform, submission: SubmissionId, error: SeatrialError) -> Submission:
    """Withdraw the candidate, clear away what was staged, and write the end state with its reason.

    The reason is written first: a run that continues after a kill, and finds the candidate withdrawn, ends the submission for that
    reason.
    """
    row = here.records.submissions.get(submission)
    error = ending(row) or error
    if isinstance(error, Transient):
        error = Exhausted.after(error, 1)  # from outside a step, whose own retries end otherwise
    reason = error.reason if isinstance(error, Refused) else error.code
    here.records.submissions.change(submission, here.clock.now(), reason=reason, message=error.what, hint=error.hint)
    close_gates(here, row, error)
    withdraw_rollout(here, row, error.what)
    clear_away(here, row)
    end = end_state(row, error)
    said: dict[str, Any] = {}
    if end is SubmissionState.CANCELLED and promoted(here, row):
        end, name = SubmissionState.SERVING, row.request.endpoint
        said = {"reason": "", "message": f"cancelled too late: {name} serves it", "hint": f"take it back with `seatrial rollback {name}`"}
    ended = here.records.submissions.change(submission, here.clock.now(), state=end, lease_until=0.0, **said)
    here.records.audit.add(
        AuditEntry(here.clock.now(), "seatrial", str(ended.state), submission, {"reason": reason, "message": error.what})
    )
    run_log().error("%s (%s): %s", end.replace("_", " "), reason, error)
    return ended


def promoted(here: Platform, row: Submission) -> bool:
    """Whether the submission's rollout has come to its good end."""
    return row.rollout is not None and here.records.rollouts.get(row.rollout).state is RolloutState.PROMOTED


def resume_end(submission: SubmissionId) -> None:
    """Raise what an earlier run was ending the submission with when it was killed."""
    error = ending(platform().records.submissions.get(submission))
    if error is not None:
        raise error


def ending(row: Submission) -> SeatrialError | None:
    """Return the error that an open submission is being ended with, None when nothing ends it. A cancellation comes before all others."""
    if not row.reason or row.state.ended or row.state is SubmissionState.CANCELLING:
        return None
    fault = _FAULTS.get(row.reason)
    return fault(row.message, hint=row.hint) if fault else Refused(row.message, reason=row.reason, hint=row.hint)


def end_state(row: Submission, error: SeatrialError) -> SubmissionState:
    """Return the end that an error means for a submission."""
    if row.state is SubmissionState.CANCELLING:
        return SubmissionState.CANCELLED
    if isinstance(error, Refused):
        return _ENDS.get(error.reason, SubmissionState.REFUSED)
    return SubmissionState.REFUSED if isinstance(error, DiskFull) else SubmissionState.FAILED


def close_gates(here: Platform, row: Submission, error: SeatrialError) -> None:
    """End what the submission's gate left running: a running benchmark is a wish for its engine."""
    for gate in here.records.benchmarks.find(submission=row.id, states=[BenchmarkState.RUNNING]):
        now = here.clock.now()
        here.records.benchmarks.change(gate.id, now, state=BenchmarkState.FAILED, ended_at=now, reason=error.what)


def withdraw_rollout(here: Platform, row: Submission, why: str) -> None:
    """Take the candidate's share, wait until every gateway follows, drain and stop its engine."""
    rollouts = [found for found in here.records.rollouts.find(endpoint=row.request.endpoint) if found.submission == row.id]
    for rollout in rollouts:
        state = here.driver.withdraw(rollout.id, why, Withdrawal.SUBMISSION_ENDED)
        while not state.state.ended:
            state = here.driver.advance(rollout.id)
            if not state.state.ended:
                here.clock.wait(0.2)
    settle_engines(here)


def clear_away(here: Platform, row: Submission) -> None:
    """Remove staged weights and downloads, except what another open submission of the same content still needs."""
    commit = next((step.detail.get("commit") for step in row.steps if step.name is StepName.RESOLVE), None)
    if commit:
        intake().forget_download(row.request.model.source, str(commit))
    if row.version is None:
        return
    try:
        intake().discard(here.records.versions.get(row.version), partial(bundles_in_use, here, row.id))
    except (NotFound, Conflict):
        return  # it was refused before it became a version


def bundles_in_use(here: Platform, ended: SubmissionId | None = None) -> frozenset[Digest] | None:
    """Return the bundles that open submissions rest on, `ended` left out. None while one has no version yet: it may rest on any."""
    rows = [row for row in here.records.submissions.find(states=_OPEN, limit=1000) if row.id != ended]
    if any(row.version is None for row in rows):
        return None
    versions = [here.records.versions.get(row.version) for row in rows if row.version is not None]
    return frozenset(digest for version in versions for digest in (Digest(version.id), version.tensors))
