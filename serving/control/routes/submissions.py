"""Routes of submissions: submit, find, cancel, logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query

from core.access import Caller
from core.errors import NotFound, Refused
from core.flow_runs import LogLine
from core.ids import VersionId
from core.reasons import Reason
from core.submissions import Submission, SubmissionRequest, SubmissionState, endpoint_name
from core.versions import ModelRef, TrialReport
from lifecycle import submissions as lifecycle
from serving.control.context import ControlContext
from serving.control.dependencies import Context, Submitter, visible_submission
from serving.control.errors import RESPONSES
from serving.control.plain_text import plain
from serving.control.schemas.parameters import After, IdPart, Limit, NameQuery, epoch
from serving.control.schemas.submissions import LinksView, LogsView, NewSubmission, SubmissionView
from serving.control.schemas.waiting import WaitingView

_ENGINE_LINES = 200

routes = APIRouter(prefix="/v1/submissions", tags=["submissions"], responses=RESPONSES)


@routes.post("", status_code=201)
def submit(body: NewSubmission, context: Context, caller: Submitter) -> SubmissionView:
    """Store a submission and start its flow run. While Prefect is unavailable it waits and is started later.

    A gate whose suite is malformed is refused here, before anything is stored: the submission could not pass it.
    """
    context.suites.check_gate()
    request = SubmissionRequest(_model(body.model), endpoint_name(body.endpoint), body.idempotency_key, body.note)
    return submission_view(context, caller, lifecycle.submit(context.records, context.runs, context.clock, request, caller.actor))


@routes.get("")
def find(
    context: Context,
    caller: Submitter,
    *,
    state: Annotated[SubmissionState | None, Query()] = None,
    endpoint: NameQuery = None,
    mine: bool = False,
    limit: Limit = 100,
) -> list[SubmissionView]:
    """List submissions, newest first, without their steps. A submitter sees its own."""
    submitter = caller.principal if mine or not caller.is_operator else None
    found = context.records.submissions.find(
        states=[state] if state else (), endpoint=endpoint_name(endpoint) if endpoint else None, submitter=submitter, limit=limit
    )
    names = context.names()
    links = LinksView(gateway=context.links.gateway_url)
    return [SubmissionView.of(submission, names.get(submission.submitter, ""), (), links) for submission in found]


@routes.get("/{submission_id}")
def get(submission_id: IdPart, context: Context, caller: Submitter) -> SubmissionView:
    """Return one submission with its steps, what its trials said, and links."""
    return submission_view(context, caller, visible_submission(context, caller, submission_id))


@routes.post("/{submission_id}/cancel")
def cancel(submission_id: IdPart, context: Context, caller: Submitter) -> SubmissionView:
    """Cancel a submission that has not ended. Its run stops and its candidate is withdrawn; cancelling twice changes nothing."""
    current = visible_submission(context, caller, submission_id)
    changed = lifecycle.cancel(context.records, context.runs, context.clock, current.id, caller.actor)
    return submission_view(context, caller, changed)


@routes.get("/{submission_id}/logs")
def logs(submission_id: IdPart, context: Context, caller: Submitter, after: After = None) -> LogsView:
    """Return what the flow run logged at or after `after`, and the end of the engine's output."""
    submission = visible_submission(context, caller, submission_id)
    engine = context.engines.logs(submission.version, _ENGINE_LINES) if submission.version else ()
    flow: tuple[LogLine, ...] = ()
    if submission.flow_run:
        flow = context.runs.logs(submission.flow_run, epoch(after))
    return LogsView.of(flow, engine)


def submission_view(context: ControlContext, caller: Caller, submission: Submission) -> SubmissionView:
    """Show a caller a submission with its steps, reports and links."""
    reports, model = _trials(context, submission.version)
    links = LinksView(run=context.links.run(submission.flow_run), model=model, gateway=context.links.gateway_url)
    gates = context.records.benchmarks.find(submission=submission.id, version=submission.version, limit=1)
    waits = None if submission.state.ended else context.waiting(submission.flow_run, submission.lease_until)
    submitter = context.names().get(submission.submitter, "")
    gate = gates[0].id if gates else None
    return SubmissionView.of(submission, submitter, reports, links, gate, WaitingView.of(waits, caller))


def _trials(context: ControlContext, version: VersionId | None) -> tuple[tuple[TrialReport, ...], str | None]:
    if version is None:
        return (), None
    try:
        found = context.records.versions.get(version)
    except NotFound:  # the row names it before `register` has entered it
        return context.records.versions.reports(version), None
    return context.records.versions.reports(version), context.links.model(found)


def _model(text: str) -> ModelRef:
    reference = ModelRef.parse(text)
    if reference.is_folder and not _is_folder(reference.source):
        raise Refused(
            f"{plain(reference.source[:200])} is not a folder on the platform's machine",
            reason=Reason.FOLDER_NOT_FOUND,
            hint="give the folder that holds config.json and the safetensors files, or a model id of the hub",
        )
    return reference


def _is_folder(source: str) -> bool:
    try:
        return plain(source) == source and Path(source).is_dir()
    except OSError:  # too long a name, or a folder that we may not look into
        return False
