"""The client's types have the fields that the control API sends, and its steps and ends are the platform's."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Final

import pytest

from core import shown
from core.submissions import StepName, SubmissionState
from seatrial import scores, types
from seatrial.cli import numbers
from serving.control.schemas import (
    benchmarks,
    endpoints,
    feedback,
    keys,
    leaderboard,
    models,
    problems,
    rollouts,
    studies,
    submissions,
    trials,
    waiting,
)
from serving.control.schemas.base import View

TYPES: Final[dict[type, type[View]]] = {
    types.Caller: keys.CallerView,
    types.Cohort: rollouts.CohortView,
    types.Endpoint: endpoints.EndpointView,
    types.Engine: endpoints.EngineView,
    types.Feedback: feedback.FeedbackView,
    types.Finding: trials.FindingView,
    types.Key: keys.NewKeyView,
    types.Links: submissions.LinksView,
    types.LogLine: submissions.LogLineView,
    types.Logs: submissions.LogsView,
    types.Model: models.ModelDetail,
    types.PlatformHealth: problems.ProblemsView,
    types.PlatformProblem: problems.PlatformProblemView,
    types.Policy: endpoints.PolicyView,
    types.Report: trials.ReportSummary,
    types.Rollback: endpoints.RollbackView,
    types.Rollout: rollouts.RolloutView,
    types.LeaderboardRow: leaderboard.LeaderboardRowView,
    types.Step: submissions.StepView,
    types.Submission: submissions.SubmissionView,
    types.TrialReport: trials.ReportView,
    types.Verdict: rollouts.VerdictView,
    scores.Answer: benchmarks.AnswerView,
    scores.Benchmark: benchmarks.BenchmarkView,
    scores.Comparison: benchmarks.ComparisonView,
    scores.Power: benchmarks.PowerView,
    scores.Problem: benchmarks.BenchmarkProblemView,
    scores.Sampling: benchmarks.SamplingView,
    scores.Study: studies.StudyView,
    scores.Waiting: waiting.WaitingView,
}


def sent_by(view: type[View]) -> dict[str, bool]:
    """Return the fields that the API sends, and whether a sender must set each."""
    return {field.serialization_alias or field.alias or name: field.is_required() for name, field in view.model_fields.items()}


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_the_client_reads_every_field_that_the_api_sends(kind: type) -> None:
    known = {field.name for field in fields(kind)}
    assert known == set(sent_by(TYPES[kind]))


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_the_client_requires_only_fields_that_are_always_sent(kind: type) -> None:
    required = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    assert required <= set(sent_by(TYPES[kind]))


def test_every_type_of_the_client_is_compared() -> None:
    own = {"Chunk"}  # of the gateway's OpenAI API, which the OpenAI client defines
    named = {name for name in types.__all__ if name[0].isupper()} - own
    assert {kind.__name__ for kind in TYPES} >= named


def test_the_client_knows_every_step_in_its_order_and_every_end() -> None:
    assert tuple(StepName) == types.STEPS
    assert {state for state in SubmissionState if state.ended} == types.ENDED


@pytest.mark.parametrize("table", ["_LABELS", "_PARTS", "_HEADLINE", "_SHOWN_ABOVE_ZERO"])
def test_the_command_line_and_the_pages_name_measurements_alike(table: str):
    assert getattr(numbers, table) == getattr(shown, table)
