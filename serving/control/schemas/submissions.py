"""Submissions and their logs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from core.flow_runs import LogLine
from core.submissions import Step, StepName, StepState, Submission, SubmissionState
from core.versions import TrialReport
from serving.control.plain_text import plain
from serving.control.schemas.base import Detail, RequestBody, Text, View, maybe, moment
from serving.control.schemas.trials import ReportSummary
from serving.control.schemas.waiting import WaitingView


class NewSubmission(RequestBody):
    """Bring a model to an endpoint. The same idempotency key from you again is the same submission."""

    model: Annotated[str, Field(min_length=1, max_length=4096, description="ORG/MODEL, ORG/MODEL@REVISION or an absolute folder")]
    endpoint: Annotated[str, Field(min_length=1, max_length=63, description="the public name that applications will call")]
    note: Annotated[str, Field(max_length=2000), AfterValidator(plain)] = ""
    idempotency_key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")] | None = None


class StepView(View):
    """One step of a submission. `progress` runs from 0 to 1, `attempt` counts from 1."""

    name: StepName
    state: StepState
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    progress: float
    message: Text
    detail: Detail

    @classmethod
    def of(cls, step: Step) -> StepView:
        """Show a step."""
        return cls(
            name=step.name,
            state=step.state,
            attempt=step.attempt,
            started_at=moment(step.started_at),
            ended_at=maybe(step.ended_at),
            progress=step.progress,
            message=step.message,
            detail=step.detail,
        )


class LinksView(View):
    """Pages for a person's browser, and where applications send prompts."""

    run: str | None = None
    model: str | None = None
    gateway: str | None = None


class SubmissionView(View):
    """A submission. Ended otherwise than serving, `reason` is a stable word, `message` says what and which, `hint` what next."""

    id: str
    model: Text
    endpoint: str
    note: Text
    submitter: Text
    state: SubmissionState
    created_at: datetime
    updated_at: datetime
    version: str | None
    rollout: str | None
    reason: Text
    message: Text
    hint: Text
    run: str | None = Field(description="Prefect's id of the flow run that drives it")
    runs: int = Field(description="how many flow runs were started for it")
    steps: list[StepView]
    reports: list[ReportSummary]
    benchmark: str | None = Field(default=None, description="the benchmark of its gate, problem by problem")
    waiting: WaitingView | None = Field(default=None, description="why no process drives it, where none does; not told in lists")
    links: LinksView

    @classmethod
    def of(
        cls,
        submission: Submission,
        submitter: str,
        reports: tuple[TrialReport, ...],
        links: LinksView,
        benchmark: str | None = None,
        waiting: WaitingView | None = None,
    ) -> SubmissionView:
        """Show a submission."""
        return cls(
            id=submission.id,
            model=str(submission.request.model),
            endpoint=submission.request.endpoint,
            note=submission.request.note,
            submitter=submitter,
            state=submission.state,
            created_at=moment(submission.created_at),
            updated_at=moment(submission.updated_at),
            version=submission.version,
            rollout=submission.rollout,
            reason=submission.reason or "",
            message=submission.message,
            hint=submission.hint,
            run=submission.flow_run,
            runs=submission.runs,
            steps=[StepView.of(step) for step in submission.steps],
            reports=[ReportSummary.of(report) for report in reports],
            benchmark=benchmark,
            waiting=waiting,
            links=links,
        )


class LogLineView(View):
    """One line that the flow run logged."""

    id: str
    at: datetime
    level: str
    message: Text


class LogsView(View):
    """Lines of the flow run at or after `after` (tell repeated ones by their id), and the last lines of the engine."""

    flow: list[LogLineView]
    engine: list[Text]

    @classmethod
    def of(cls, flow: tuple[LogLine, ...], engine: tuple[str, ...]) -> LogsView:
        """Show logs."""
        lines = [LogLineView(id=line.id, at=moment(line.at), level=line.level, message=line.message) for line in flow]
        return cls(flow=lines, engine=list(engine))
