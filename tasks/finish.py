"""How a submission ends otherwise than serving: the candidate withdrawn, nothing left staged, the reason told."""

from __future__ import annotations

from functools import partial

from prefect import task

from core.benchmarks import BenchmarkState
from core.endpoints import Withdrawal
from core.errors import Conflict, NotFound, SeatrialError
from core.ids import Digest, SubmissionId
from core.ports.records import AuditEntry
from core.submissions import StepName, Submission, SubmissionState
from lifecycle.benchmarks import fail
from lifecycle.submissions import OPEN, begin_end, end, ending, reason_of
from tasks.lease import end_despite_sigterm, this_driver
from tasks.notes import run_log
from tasks.pages import leave_pages
from tasks.prepare import model_import
from tasks.settle import settle_engines
from tasks.step import BACKOFF_S, is_transient
from wiring import Platform, platform


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
    end_despite_sigterm()
    leave_pages(here, submission)
    return ended.state


def end_submission(here: Platform, submission: SubmissionId, error: SeatrialError) -> Submission:
    """Withdraw the candidate, clear away what was staged, and write the end state with its reason.

    The reason is written first: a run that continues after a kill, and finds the candidate withdrawn, ends the submission for that
    reason.
    """
    row = begin_end(here.records, here.clock, submission, error, this_driver())
    if row.state.ended:
        return row
    why = ending(row) or error
    close_gates(here, row, why)
    withdraw_rollout(here, row, why.what)
    clear_away(here, row)
    ended = end(here.records, here.clock, submission, why, this_driver())
    detail = {"reason": reason_of(why), "message": why.what}
    here.records.audit.add(AuditEntry(here.clock.now(), "seatrial", str(ended.state), submission, detail))
    run_log().error("%s (%s): %s", ended.state.replace("_", " "), reason_of(why), why)
    return ended


def resume_end(submission: SubmissionId) -> None:
    """Raise what an earlier run was ending the submission with when it was killed."""
    error = ending(platform().records.submissions.get(submission))
    if error is not None:
        raise error


def close_gates(here: Platform, row: Submission, error: SeatrialError) -> None:
    """End what the submission's gate left running: a running benchmark requests its engine."""
    for gate in here.records.benchmarks.find(submission=row.id, states=[BenchmarkState.RUNNING]):
        fail(here.records, here.clock, gate.id, error.what, None)


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
        model_import().forget_download(row.request.model.source, str(commit))
    if row.version is None:
        return
    try:
        model_import().discard(here.records.versions.get(row.version), partial(bundles_in_use, here, row.id))
    except (NotFound, Conflict):
        return  # it was refused before it became a version


def bundles_in_use(here: Platform, ended: SubmissionId | None = None) -> frozenset[Digest] | None:
    """Return the bundles that open submissions rest on, `ended` left out. None while one has no version yet: it may rest on any."""
    rows = [row for row in here.records.submissions.find(states=OPEN, limit=1000) if row.id != ended]
    if any(row.version is None for row in rows):
        return None
    versions = [here.records.versions.get(row.version) for row in rows if row.version is not None]
    return frozenset(digest for version in versions for digest in (Digest(version.id), version.tensors))
