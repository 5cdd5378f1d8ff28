"""Reports of trials."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from core.versions import Decision, Finding, TrialKind, TrialReport
from serving.control.schemas.base import Detail, Numbers, Text, View, moment


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
