"""The client's types have the fields that the control API sends, and its steps and ends are the platform's."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Final

import pytest

from core.submissions import StepName, SubmissionState
from seatrial import scores, types
from serving.control import callers, status, traffic, views, waiting_view
from serving.control import scores as score_views
from serving.control.wire import View

TYPES: Final[dict[type, type[View]]] = {
    types.Caller: callers.CallerView,
    types.Cohort: traffic.CohortView,
    types.Endpoint: traffic.EndpointView,
    types.Engine: traffic.EngineView,
    types.Feedback: traffic.FeedbackView,
    types.Finding: views.FindingView,
    types.Key: callers.NewKeyView,
    types.Links: views.LinksView,
    types.LogLine: views.LogLineView,
    types.Logs: views.LogsView,
    types.Model: views.ModelDetail,
    types.PlatformHealth: status.ProblemsView,
    types.PlatformProblem: status.ProblemView,
    types.Policy: traffic.PolicyView,
    types.Report: views.ReportSummary,
    types.Rollback: traffic.RollbackView,
    types.Rollout: traffic.RolloutView,
    types.Standing: traffic.StandingView,
    types.Step: views.StepView,
    types.Submission: views.SubmissionView,
    types.TrialReport: views.ReportView,
    types.Verdict: traffic.VerdictView,
    scores.Answer: score_views.AnswerView,
    scores.Benchmark: score_views.BenchmarkView,
    scores.Comparison: score_views.ComparisonView,
    scores.Power: score_views.PowerView,
    scores.Problem: score_views.ProblemView,
    scores.Sampling: score_views.SamplingView,
    scores.Study: score_views.StudyView,
    scores.Waiting: waiting_view.WaitingView,
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
    own = {"Piece"}  # of the gateway's OpenAI API, which the OpenAI client defines
    named = {name for name in types.__all__ if name[0].isupper()} - own
    assert {kind.__name__ for kind in TYPES} >= named


def test_the_client_knows_every_step_in_its_order_and_every_end() -> None:
    assert tuple(StepName) == types.STEPS
    assert {state for state in SubmissionState if state.ended} == types.ENDED
