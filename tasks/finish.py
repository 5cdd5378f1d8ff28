"""How a submission ends otherwise than serving, with the adapters of this process."""

from __future__ import annotations

from functools import partial

from prefect import task

from core.errors import Conflict, NotFound, SeatrialError
from core.ids import SubmissionId
from core.ports import Records
from core.submissions import StepName, Submission, SubmissionState
from lifecycle.bundles import bundles_in_use
from lifecycle.ending import Ending
from lifecycle.submissions import ending, reason_of
from registry.model_import import ModelImport
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
    leave_pages(here.records, here.links, submission)
    return ended.state


def end_submission(here: Platform, submission: SubmissionId, error: SeatrialError) -> Submission:
    """End the submission with this process's adapters, and log the end."""

    def clear(row: Submission) -> None:
        clear_away(here.records, model_import(), row)

    work = Ending(here.records, here.clock, here.driver, partial(settle_engines, here), clear, log_end)
    return work.end(submission, error, this_driver())


def log_end(row: Submission, why: SeatrialError) -> None:
    """Log how the submission ended, with the hint."""
    run_log().error("%s (%s): %s", row.state.replace("_", " "), reason_of(why), why)


def resume_end(submission: SubmissionId) -> None:
    """Raise what an earlier run was ending the submission with when it was killed."""
    error = ending(platform().records.submissions.get(submission))
    if error is not None:
        raise error


def clear_away(records: Records, store: ModelImport, row: Submission) -> None:
    """Remove staged weights and downloads, except what another open submission of the same content still needs."""
    commit = next((step.detail.get("commit") for step in row.steps if step.name is StepName.RESOLVE), None)
    if commit:
        store.forget_download(row.request.model.source, str(commit))
    if row.version is None:
        return
    try:
        store.discard(records.versions.get(row.version), partial(bundles_in_use, records, row.id))
    except (NotFound, Conflict):
        return  # it was refused before it became a version
