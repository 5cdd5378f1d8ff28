"""Benchmarks, their problems and answers, and comparisons."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from core.benchmarks import MOST_POINTS, MOST_SAMPLES, Benchmark, BenchmarkState, Flaw, Form, Sample, Trigger
from core.problem_scores import ProblemScore
from core.programs import RunOutcome
from core.versions import Decision
from serving.control.schemas.base import Detail, Number, Numbers, RequestBody, Text, View, maybe, moment
from serving.control.schemas.parameters import Penalty, Temperature, TopP
from serving.control.schemas.waiting import WaitingView


class NewBenchmark(RequestBody):
    """Ask every problem of a suite `samples` times at every temperature with every frequency penalty."""

    target: Annotated[
        str, Field(min_length=1, max_length=4096, description="an endpoint, ORG/MODEL[@COMMIT], or 8 characters of a version")
    ]
    suite: Annotated[str, Field(max_length=4096, pattern=r"^(/.+|[A-Za-z0-9][\w.:-]{0,99})$", description="a name, or a .jsonl file")] = (
        "harbour"
    )
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 1
    temperature: list[Temperature] = Field(default=[0.0], min_length=1, max_length=MOST_POINTS)
    frequency_penalty: list[Penalty] = Field(default=[0.0], min_length=1, max_length=MOST_POINTS)
    top_p: TopP = 1.0
    max_tokens: Annotated[int, Field(ge=0, le=32_768, description="longest answer, in tokens; 0: the suite's own")] = 0
    form: Form = Form.OWN


class SamplingView(View):
    """One point of the grid."""

    key: str
    temperature: float
    frequency_penalty: float
    top_p: float
    max_tokens: int


class BenchmarkView(View):
    """One run of a suite on a model version. `numbers` holds pass@k, intervals, rates and times; of a grid also `NAME/POINT`."""

    id: str
    version: str
    model: Text
    endpoint: str | None
    submission: str | None = Field(description="the submission whose gate it is")
    asked_by: Text
    trigger: Trigger
    state: BenchmarkState
    started_at: datetime
    ended_at: datetime | None
    progress: float
    suite: Text
    suite_digest: str
    prompt: Text = Field(description="name@version in the prompt registry; empty until the plan is pinned")
    extractor: Text
    form: Form
    samples: int
    grid: list[SamplingView]
    plan: str = Field(description="runs of the same plan can be compared")
    numbers: Numbers
    decision: Decision | None = Field(description="against the baseline: fail is worse")
    reason: Text
    baseline: str | None
    comparison: Detail
    studies: Detail
    run: str | None = Field(description="Prefect's page of it")
    history: str | None = Field(description="MLflow's page of it")
    waiting: WaitingView | None = Field(default=None, description="why no process drives it, where none does; not told in lists")

    @classmethod
    def of(cls, row: Benchmark, model: str, asked_by: str, run: str | None, waiting: WaitingView | None = None) -> BenchmarkView:
        """Show a benchmark."""
        plan = row.plan
        own: dict[str, Any] = {name: getattr(row, name) for name in _SAME}
        return cls(
            **own,
            model=model,
            asked_by=asked_by,
            started_at=moment(row.started_at),
            ended_at=maybe(row.ended_at),
            suite=plan.suite,
            suite_digest=plan.suite_digest,
            prompt=plan.prompt,
            extractor=plan.extractor,
            form=plan.form,
            samples=plan.samples,
            grid=[SamplingView.model_validate(point) for point in plan.grid],
            plan=plan.key,
            run=run,
            history=row.run_url or None,
            waiting=waiting,
        )


_SAME = (
    *("id", "version", "endpoint", "submission", "trigger", "state", "progress", "numbers", "decision", "reason", "baseline"),
    *("comparison", "studies"),
)


class BenchmarkProblemView(View):
    """One problem at one point of the grid. `rate` and `baseline` are parts of the answers that passed, 0 to 1."""

    task_id: Text
    sampling: str
    samples: int
    passed: int
    rate: Number
    baseline: Number
    loops: int
    flaws: int
    mean_seconds: float
    detail: Text = Field(description="the first failing check")

    @classmethod
    def of(cls, score: ProblemScore) -> BenchmarkProblemView:
        """Show a problem."""
        return cls.model_validate(score)


class AnswerView(View):
    """One answer, judged."""

    task_id: Text
    sampling: str
    index: int
    seed: int
    outcome: RunOutcome
    detail: Text
    text: Text
    code: Text
    finish_reason: Text
    prompt_tokens: int
    completion_tokens: int
    mean_logprob: Number
    seconds: float
    cpu_s: float
    isolation: Text
    flaws: list[Flaw]

    @classmethod
    def of(cls, sample: Sample) -> AnswerView:
        """Show an answer."""
        return cls.model_validate(sample)


class ComparisonView(View):
    """Two runs of one plan, paired problem by problem. Differences are candidate - baseline, in parts of 1."""

    candidate: str
    baseline: str
    found: Detail = Field(description="decision, reason, difference, low, high, p_value, lost, won and what they rest on")


class PowerView(View):
    """How small a drop so many answers find."""

    problems: int
    samples: int
    points: float
    power: float
