"""Routes of submissions: submit, look, cancel, logs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query

from core.access import Caller
from core.errors import NotFound, Refused, Transient
from core.flow_runs import LogLine
from core.ids import SubmissionId, VersionId
from core.submissions import Submission, SubmissionRequest, SubmissionState, endpoint_name
from core.versions import ModelRef, TrialReport
from lifecycle.submissions import request_cancel, start_run
from serving.control.access import Submitter, is_operator
from serving.control.asks import After, IdPart, Limit, NameQuery, Submit, epoch
from serving.control.desk import Desk, TheDesk
from serving.control.errors import RESPONSES
from serving.control.text import plain
from serving.control.views import LinksView, LogsView, SubmissionView
from serving.control.waiting_view import waiting_view

_LOG = logging.getLogger("seatrial.control")
_ENGINE_LINES = 200

routes = APIRouter(prefix="/v1/submissions", tags=["submissions"], responses=RESPONSES)


@routes.post("", status_code=201)
def submit(ask: Submit, desk: TheDesk, caller: Submitter) -> SubmissionView:
    """Take a submission in and start its flow run. With Prefect away it is taken in all the same and started later."""
    request = SubmissionRequest(_model(ask.model), endpoint_name(ask.endpoint), ask.idempotency_key, ask.note)
    return view(desk, caller, enter(desk, caller, request, "submit"))


@routes.get("")
def find(
    desk: TheDesk,
    caller: Submitter,
    *,
    state: Annotated[SubmissionState | None, Query()] = None,
    endpoint: NameQuery = None,
    mine: bool = False,
    limit: Limit = 100,
) -> list[SubmissionView]:
    """List submissions, newest first, without their steps. A submitter sees its own."""
    submitter = caller.principal if mine or not is_operator(caller) else None
    found = desk.records.submissions.find(
        states=[state] if state else (), endpoint=endpoint_name(endpoint) if endpoint else None, submitter=submitter, limit=limit
    )
    names = desk.names()
    links = LinksView(gateway=desk.links.gateway_url)
    return [SubmissionView.of(submission, names.get(submission.submitter, ""), (), links) for submission in found]


@routes.get("/{submission_id}")
def get(submission_id: IdPart, desk: TheDesk, caller: Submitter) -> SubmissionView:
    """Return one submission with its steps, what its trials said, and links."""
    return view(desk, caller, visible(desk, caller, submission_id))


@routes.post("/{submission_id}/cancel")
def cancel(submission_id: IdPart, desk: TheDesk, caller: Submitter) -> SubmissionView:
    """Cancel a submission that has not ended. What it has on its way is stopped and taken back; cancelling twice changes nothing."""
    current = visible(desk, caller, submission_id)
    changed = request_cancel(desk.records, desk.clock, current.id)
    if changed.revision != current.revision:
        desk.audit(caller, "cancel", current.id)
        _tell_prefect(desk, changed)
    return view(desk, caller, desk.records.submissions.get(current.id))


@routes.get("/{submission_id}/logs")
def logs(submission_id: IdPart, desk: TheDesk, caller: Submitter, after: After = None) -> LogsView:
    """Return what the flow run logged at or after `after`, and the end of the engine's output."""
    submission = visible(desk, caller, submission_id)
    engine = desk.engines.logs(submission.version, _ENGINE_LINES) if submission.version else ()
    flow: tuple[LogLine, ...] = ()
    if submission.flow_run:
        flow = desk.runs.logs(submission.flow_run, epoch(after))
    return LogsView.of(flow, engine)


def enter(desk: Desk, caller: Caller, request: SubmissionRequest, action: str) -> Submission:
    """Enter a submission, a row first, and try to start its run. One that is there already (same idempotency key) comes back."""
    created = desk.records.submissions.create(request, caller.principal, desk.clock.now())
    if created.flow_run or created.state is not SubmissionState.QUEUED:
        return created
    desk.audit(caller, action, created.id, model=str(request.model), endpoint=request.endpoint)
    try:
        return start_run(desk.records, desk.runs, desk.clock, created)
    except (Transient, NotFound) as error:
        _LOG.warning("submission %s waits for reconcile: %s", created.id, error)
        return created


def visible(desk: Desk, caller: Caller, submission_id: str) -> Submission:
    """Return a submission that the caller may see. NotFound, also for somebody else's: its existence is not told."""
    found = desk.records.submissions.get(SubmissionId(submission_id))
    if not is_operator(caller) and found.submitter != caller.principal:
        raise NotFound(f"there is no submission {submission_id}", reason="unknown_submission", hint="`seatrial status` lists yours")
    return found


def view(desk: Desk, caller: Caller, submission: Submission) -> SubmissionView:
    """Show a caller a submission whole."""
    reports, model = _trials(desk, submission.version)
    links = LinksView(run=desk.links.run(submission.flow_run), model=model, gateway=desk.links.gateway_url)
    gates = desk.records.benchmarks.find(submission=submission.id, version=submission.version, limit=1)
    waits = None if submission.state.ended else waiting_view(desk, caller, submission.flow_run, submission.lease_until)
    return SubmissionView.of(submission, desk.names().get(submission.submitter, ""), reports, links, gates[0].id if gates else None, waits)


def _trials(desk: Desk, version: VersionId | None) -> tuple[tuple[TrialReport, ...], str | None]:
    if version is None:
        return (), None
    try:
        found = desk.records.versions.get(version)
    except NotFound:  # the row names it before `register` has entered it
        return desk.records.versions.reports(version), None
    return desk.records.versions.reports(version), desk.links.model(found)


def _model(text: str) -> ModelRef:
    reference = ModelRef.parse(text)
    if reference.is_folder and not _is_folder(reference.source):
        raise Refused(
            f"{plain(reference.source[:200])} is not a folder on the platform's machine",
            reason="folder_not_found",
            hint="give the folder that holds config.json and the safetensors files, or a model id of the hub",
        )
    return reference


def _is_folder(source: str) -> bool:
    try:
        return plain(source) == source and Path(source).is_dir()
    except OSError:  # too long a name, or a folder that we may not look into
        return False


def _tell_prefect(desk: Desk, submission: Submission) -> None:
    """Stop the run at once where Prefect can be reached; reconcile ends what is cancelling in any case."""
    desk.reconcile_soon()
    try:
        if submission.flow_run:
            desk.runs.cancel(submission.flow_run)
    except (Transient, NotFound) as error:
        _LOG.warning("submission %s is cancelling and its flow run was not told: %s", submission.id, error)
