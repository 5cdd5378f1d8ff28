"""Endpoints, their policies and their engines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from core.endpoints import MOST_BEST_OF, BestOf, Endpoint, OnRegression
from core.engines import EnginePhase, EngineState
from serving.control.schemas.base import RequestBody, Text, View, moment
from serving.control.schemas.parameters import Penalty, Temperature, TopP
from serving.control.schemas.rollouts import RolloutView
from serving.control.schemas.submissions import SubmissionView


class PolicyChange(RequestBody):
    """What an endpoint promises; what is left out stays as it is, null takes a default away."""

    keep_text_days: Annotated[int, Field(ge=0, le=3660)] = 0
    temperature: Temperature | None = None
    top_p: TopP | None = None
    frequency_penalty: Penalty | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_BEST_OF)] = 1
    policy: BestOf = BestOf.RANDOM
    on_regression: OnRegression = OnRegression.ALERT


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


class RollbackView(View):
    """What was set going: the active rollout that now goes back, or a submission that brings the previous version again."""

    rollout: RolloutView | None = None
    submission: SubmissionView | None = None
