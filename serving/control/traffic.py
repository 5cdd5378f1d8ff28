"""Endpoints, rollouts, feedback and the leaderboard, as they go over the wire."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from core.conversations import Feedback, Thumb
from core.endpoints import BestOf, Cohort, Endpoint, OnRegression, Rollout, RolloutState, Verdict, Withdrawal
from core.engines import EnginePhase, EngineState
from core.versions import Decision
from serving.control.views import SubmissionView
from serving.control.wire import Number, Text, View, maybe, moment


class EngineView(View):
    """What is known of an engine now."""

    version: str
    phase: EnginePhase
    detail: Text
    restarts: int

    @classmethod
    def of(cls, state: EngineState) -> EngineView:
        """Show an engine."""
        return cls(version=state.version, phase=state.phase, detail=state.detail, restarts=state.restarts)


class PolicyView(View):
    """What an endpoint promises. Sampling defaults that are null are the engine's own."""

    temperature: float | None
    top_p: float | None
    frequency_penalty: float | None
    best_of: int
    policy: BestOf
    on_regression: OnRegression


class EndpointView(View):
    """A public model name, the versions behind it and their engines."""

    name: str
    created_at: datetime
    stable: str | None
    previous: str | None
    candidate: str | None
    rollout: str | None
    share: float = Field(description="part of new conversations that the candidate gets now, 0 to 1")
    keep_text_days: int = Field(description="days for which conversation text is kept; 0: not at all")
    policy: PolicyView
    engines: list[EngineView]

    @classmethod
    def of(cls, endpoint: Endpoint, share: float, engines: tuple[EngineState, ...]) -> EndpointView:
        """Show an endpoint."""
        return cls(
            name=endpoint.name,
            created_at=moment(endpoint.created_at),
            stable=endpoint.stable,
            previous=endpoint.previous,
            candidate=endpoint.candidate,
            rollout=endpoint.rollout,
            share=share,
            keep_text_days=endpoint.policy.keep_text_days,
            policy=PolicyView.model_validate(endpoint.policy),
            engines=[EngineView.of(engine) for engine in engines],
        )


class CohortView(View):
    """What one version did in the rollout's conversations."""

    conversations: int
    bad: int
    completions: int
    errors: int
    slow: int
    loops: int
    thumbs_up: int
    thumbs_down: int
    ttft_p95_s: Number

    @classmethod
    def of(cls, cohort: Cohort) -> CohortView:
        """Show a cohort."""
        return cls.model_validate(cohort)


class VerdictView(View):
    """Pass, fail or inconclusive, with the numbers that it rests on."""

    decision: Decision
    reason: Text
    stable: CohortView
    candidate: CohortView
    e_value: Number = Field(description="evidence that the candidate is worse; null when it is beyond all numbers")
    thumbs_e_value: Number
    at: datetime

    @classmethod
    def of(cls, verdict: Verdict) -> VerdictView:
        """Show a verdict."""
        return cls(
            decision=verdict.decision,
            reason=verdict.reason,
            stable=CohortView.of(verdict.stable),
            candidate=CohortView.of(verdict.candidate),
            e_value=verdict.e_value,
            thumbs_e_value=verdict.thumbs_e_value,
            at=moment(verdict.at),
        )


class RolloutView(View):
    """Bringing a candidate to stable, step by step."""

    id: str
    submission: str
    endpoint: str
    candidate: str
    stable: str | None
    state: RolloutState
    step: int
    share: float
    started_at: datetime
    step_started_at: datetime
    deadline: datetime
    ended_at: datetime | None
    reason: Text
    withdrawal: Withdrawal | None
    verdict: VerdictView | None

    @classmethod
    def of(cls, rollout: Rollout) -> RolloutView:
        """Show a rollout."""
        return cls(
            id=rollout.id,
            submission=rollout.submission,
            endpoint=rollout.endpoint,
            candidate=rollout.candidate,
            stable=rollout.stable,
            state=rollout.state,
            step=rollout.step,
            share=rollout.share,
            started_at=moment(rollout.started_at),
            step_started_at=moment(rollout.step_started_at),
            deadline=moment(rollout.deadline),
            ended_at=maybe(rollout.ended_at),
            reason=rollout.reason,
            withdrawal=rollout.withdrawal,
            verdict=VerdictView.of(rollout.verdict) if rollout.verdict else None,
        )


class RollbackView(View):
    """What was set going: the active rollout that now goes back, or a submission that brings the previous version again."""

    rollout: RolloutView | None = None
    submission: SubmissionView | None = None


class FeedbackView(View):
    """A thumb, a comment or both on one completion."""

    completion: Text
    conversation: Text
    endpoint: str
    version: str
    thumb: Thumb | None
    comment: Text
    at: datetime
    counted: bool = Field(description="false when its conversation had been moved to another version")
    keep_text_days: int = Field(description="the endpoint's policy on conversation text")

    @classmethod
    def of(cls, feedback: Feedback, keep_text_days: int) -> FeedbackView:
        """Show feedback."""
        return cls(
            completion=feedback.completion,
            conversation=feedback.conversation,
            endpoint=feedback.endpoint,
            version=feedback.version,
            thumb=feedback.thumb,
            comment=feedback.comment,
            at=moment(feedback.at),
            counted=feedback.counted,
            keep_text_days=keep_text_days,
        )


class LeaderboardRowView(View):
    """One row of the leaderboard. `pass_at_1` is the benchmark's score, 0 to 1, null when it was never benchmarked."""

    endpoint: str
    version: str
    model: Text
    submitter: Text
    pass_at_1: Number
    thumbs_up: int
    thumbs_down: int
    conversations: int
    completions: int
    prompt_tokens: int
    completion_tokens: int
    loops: int
    errors: int
