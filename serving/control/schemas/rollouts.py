"""Rollouts and their verdicts."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from core.endpoints import Cohort, Rollout, RolloutState, Verdict, Withdrawal
from core.versions import Decision
from serving.control.schemas.base import Number, Text, View, maybe, moment


class CohortView(View):
    """What one version did in the rollout's conversations."""

    conversations: int
    bad: int
    completions: int
    errors: int
    slow: int
    loops: int
    nonsense: int
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
