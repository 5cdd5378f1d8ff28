"""Sampling studies of a benchmark."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.benchmarks import MOST_SAMPLES
from serving.control.schemas.base import RequestBody, View


class NewStudy(RequestBody):
    """Which ways of choosing are compared, and among how many answers each chooses."""

    policies: list[Literal["random", "mean_logprob", "voting", "ranker"]] = Field(
        default=["random", "mean_logprob", "voting"], min_length=1, max_length=4
    )
    best_of: list[Annotated[int, Field(ge=1, le=MOST_SAMPLES)]] = Field(default=[1, 4, 8], min_length=1, max_length=20)
    ranker_url: Annotated[str, Field(max_length=2000, pattern=r"^(https?://[!-~]+)?$", description="an OpenAI-compatible endpoint")] = ""
    ranker_model: Annotated[str, Field(max_length=200)] = ""


class StudyView(View):
    """A sampling study that was set going; its table appears in the benchmark's `studies`."""

    benchmark: str
    study: str
    run: str | None
