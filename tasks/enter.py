"""Entering a submission, and holding it while it is driven."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from prefect.runtime import flow_run
from pydantic import BaseModel, Field

from core.errors import Conflict
from core.ids import SubmissionId
from core.shown import run_title
from core.submissions import Submission, SubmissionRequest, SubmissionState, endpoint_name
from core.versions import ModelRef
from lifecycle.leases import await_free
from lifecycle.submissions import claim, release, renew
from tasks.lease import exit_if_orphaned, renewed, this_driver
from wiring import platform

_ENDED = frozenset({SubmissionState.REFUSED, SubmissionState.FAILED, SubmissionState.CANCELLED, SubmissionState.ROLLED_BACK})


class DeployRequest(BaseModel):
    """What brings a model to an endpoint; Prefect's page shows it as a form."""

    model: str = Field(description="ORG/MODEL, ORG/MODEL@REVISION, or an absolute folder on the machine that runs the flow")
    endpoint: str = Field(description="the public model name that applications call: a-z, 0-9 and -")
    submission: str | None = Field(default=None, description="leave empty: set by the control API for a submission that exists already")

    @property
    def title(self) -> str:
        """The run's name on Prefect's page: by model and endpoint, never by a path."""
        return run_title(self.model, self.endpoint)


def enter(request: DeployRequest) -> Submission:
    """Return the submission that this run drives.

    A run that was started from Prefect's page has no row yet: it gets one, keyed by the run. A run that is retried there after its
    submission has ended gets a new one for the same submitter: an end state is never left. A run that starts late, after its
    submission has ended, raises Conflict and changes nothing.
    """
    here = platform()
    now = here.clock.now()
    model, endpoint = ModelRef.parse(request.model), endpoint_name(request.endpoint)
    asked = SubmissionRequest(model, endpoint, idempotency_key=f"prefect-{flow_run.id}-{flow_run.run_count}")
    if not request.submission:
        return here.records.submissions.create(asked, here.records.access.principal("prefect", now).id, now)
    row = here.records.submissions.get(SubmissionId(request.submission))
    if row.state not in _ENDED:
        return row
    if flow_run.run_count > 1:
        return here.records.submissions.create(asked, row.submitter, now)
    raise Conflict(f"{row.id} is {row.state} already; this run started too late and changes nothing", hint="submit the model again")


@contextmanager
def held(submission: Submission) -> Iterator[None]:
    """Hold the submission's lease while the block runs, renewed from a thread; the lease of a killed run expires.

    Raises Conflict when another living run holds it. If the runner that started this process dies, this process exits too, as it could
    no longer be cancelled: reconcile then starts another run.
    """
    exit_if_orphaned()
    here, driver = platform(), str(this_driver())  # asked here: the thread that renews knows no run
    await_free(partial(here.records.submissions.get, submission.id), driver, here.clock, 2 * here.settings.lease_s)
    claim(here.records, here.clock, submission.id, str(flow_run.id), driver, here.settings.lease_s)
    try:
        with renewed(here.clock, here.settings.lease_s, partial(renew, here.records, here.clock, submission.id, driver)):
            yield
    finally:
        with suppress(Conflict):
            release(here.records, here.clock, submission.id, driver)
