"""Submissions, their logs, model versions and trials, as they go over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from core.flow_runs import LogLine
from core.submissions import Step, StepName, StepState, Submission, SubmissionState
from core.versions import Decision, Finding, ModelVersion, TrialKind, TrialReport
from serving.control.waiting_view import WaitingView
from serving.control.wire import Detail, Numbers, Text, View, maybe, moment


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


class FindingView(View):
    """One line of a trial's report."""

    name: Text
    passed: bool
    reason: Text
    hint: Text


class ReportSummary(View):
    """What a trial said, in short. `numbers` holds its measurements by name (`pass_at_1`)."""

    kind: TrialKind
    decision: Decision
    reason: Text = Field(description="why it failed; empty when it passed")
    hint: Text
    numbers: Numbers
    seconds: float
    at: datetime

    @classmethod
    def of(cls, report: TrialReport) -> ReportSummary:
        """Show a report in short."""
        return cls(**_summary(report))


class ReportView(ReportSummary):
    """What a trial said, whole. `key` is the content it rests on: the same key is the same report."""

    key: Text
    findings: list[FindingView]
    detail: Detail

    @classmethod
    def of(cls, report: TrialReport) -> ReportView:
        """Show a report whole."""
        findings = [FindingView.model_validate(finding) for finding in report.findings]
        return cls(**_summary(report), key=report.key, findings=findings, detail=report.detail)


def _summary(report: TrialReport) -> dict[str, Any]:
    failure = report.first_failure() or Finding("", True)
    return {
        "kind": report.kind,
        "decision": report.decision,
        "reason": failure.reason,
        "hint": failure.hint,
        "numbers": report.numbers,
        "seconds": report.seconds,
        "at": moment(report.at),
    }


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
            reason=submission.reason,
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


class ModelView(View):
    """A model version: immutable weights with tokenizer, template and licence."""

    id: str
    source: Text
    commit: Text
    licence: Text
    architecture: Text
    dtype: Text
    weights_bytes: int
    max_model_len: int
    created_at: datetime
    registered_uri: Text | None
    link: str | None = Field(description="MLflow's page of it")

    @classmethod
    def of(cls, version: ModelVersion, link: str | None) -> ModelView:
        """Show a version."""
        return cls(**_model(version, link))


class ModelDetail(ModelView):
    """A model version with every trial's report, newest first."""

    reports: list[ReportView]

    @classmethod
    def with_reports(cls, version: ModelVersion, link: str | None, reports: tuple[TrialReport, ...]) -> ModelDetail:
        """Show a version and what its trials said."""
        return cls(**_model(version, link), reports=[ReportView.of(report) for report in reports])


def _model(version: ModelVersion, link: str | None) -> dict[str, Any]:
    return {
        "id": version.id,
        "source": version.source,
        "commit": version.commit,
        "licence": version.licence,
        "architecture": version.needs.architecture,
        "dtype": version.needs.dtype,
        "weights_bytes": version.needs.weights_bytes,
        "max_model_len": version.needs.max_model_len,
        "created_at": moment(version.created_at),
        "registered_uri": version.registered_uri,
        "link": link,
    }
