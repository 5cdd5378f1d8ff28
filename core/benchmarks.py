"""Benchmarks: how a model version did on a suite, sample by sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from core.errors import Refused
from core.ids import BenchmarkId, Digest, EndpointName, Epoch, PrincipalId, SubmissionId, VersionId
from core.programs import RunOutcome
from core.reasons import Reason
from core.versions import Decision, ModelVersion


class Form(StrEnum):
    """How a problem is put to the engine: its prompt raw, or as a user's message through the chat template.

    `OWN` is the model's own (`form_of`); a pinned plan has one of the others.
    """

    COMPLETION = "completion"
    CHAT = "chat"
    OWN = "own"


def form_of(version: ModelVersion) -> Form:
    """Return the form for which a model was trained: chat where it has a chat template, completion for a base model."""
    return Form.COMPLETION if version.chat_template is None else Form.CHAT


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine draws an answer. Temperature 0 is greedy; `max_tokens` bounds the answer."""

    temperature: float = 0.0
    frequency_penalty: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512

    @property
    def key(self) -> str:
        """A short name that is equal exactly when the sampling is: a grid's point in tables, rows and curves."""
        return f"t{self.temperature:g}-f{self.frequency_penalty:g}-p{self.top_p:g}-m{self.max_tokens}"


MOST_POINTS = 64
MOST_SAMPLES = 1000


def numbers_of(text: str) -> tuple[float, ...]:
    """Read numbers separated by commas. Raises Refused."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise Refused(
            f"must be numbers separated by commas, got {text[:100]!r}", reason=Reason.BAD_NUMBER, hint="write them with commas: 0.2,0.8"
        ) from error


def grid_of(temperatures: Sequence[float], penalties: Sequence[float], *, top_p: float = 1.0, max_tokens: int = 0) -> tuple[Sampling, ...]:
    """Return every temperature with every frequency penalty, each once, in their order. Raises Refused outside what engines take.

    `max_tokens` 0 stands for the suite's own longest answer until the plan is pinned.
    """
    if any(not 0 <= value <= 2 for value in temperatures) or any(not -2 <= value <= 2 for value in penalties):  # noqa: PLR2004 - OpenAI's own bounds
        raise Refused(
            "temperature must be between 0 and 2, and frequency_penalty between -2 and 2",
            reason=Reason.BAD_SAMPLING,
            hint="correct the sampling grid",
        )
    if not 0 < top_p <= 1 or max_tokens < 0:
        raise Refused(
            "top_p must be above 0 and at most 1, and max_tokens at least 1", reason=Reason.BAD_SAMPLING, hint="correct the sampling grid"
        )
    points = dict.fromkeys(Sampling(t, f, top_p, max_tokens) for t in temperatures for f in penalties)
    if not 1 <= len(points) <= MOST_POINTS:
        raise Refused(f"a grid of {len(points)} points", reason=Reason.BAD_GRID, hint=f"give from one up to {MOST_POINTS} points")
    return tuple(points)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked: every problem of a suite `samples` times at every point of the grid. Two runs of one key can be compared.

    `prompt` is `name@version` in the prompt registry, `extractor` the version of what cuts code out of an answer.
    """

    suite: str
    suite_digest: Digest
    prompt: str
    extractor: str
    form: Form
    samples: int
    grid: tuple[Sampling, ...]
    stops: tuple[str, ...] = ()
    seed: int = 0

    @property
    def key(self) -> Digest:
        """The sha256 of all of it."""
        return Digest(hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest())


class Flaw(StrEnum):
    """The defects of an answer, whether it passes or not. `loop` and `nonsense` are degeneration (`core.degeneration`)."""

    LOOP = "loop"
    EMPTY = "empty"
    CUT = "cut"
    UNPARSABLE = "unparsable"
    NO_ENTRY_POINT = "no_entry_point"
    LOW_LOGPROB = "low_logprob"
    NONSENSE = "nonsense"


NONSENSE = frozenset({Flaw.NONSENSE, Flaw.LOW_LOGPROB})
"""The flaws of an answer that counts as nonsense: its text has the marks of nonsense, or was improbable to the model that wrote it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to one problem, judged. (`task_id`, `sampling`, `index`) is its identity within a run; no two seeds of a run are equal."""

    task_id: str
    sampling: str
    index: int
    seed: int
    text: str
    code: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    mean_logprob: float | None
    seconds: float
    """Of the engine, for the whole answer."""
    outcome: RunOutcome
    detail: str = ""
    """The first failing check, for people; at most 500 characters."""
    cpu_s: float = 0.0
    """Of the program in the sandbox."""
    isolation: str = ""
    """The level that the sandbox reached for it."""
    flaws: tuple[Flaw, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return self.outcome is RunOutcome.PASSED


def same_questions(plan: Plan, other: Plan) -> bool:
    """Return whether two plans ask the same problems equally often at the same points, each in its form and up to its longest answer."""
    ours, theirs = ([replace(point, max_tokens=0) for point in each.grid] for each in (plan, other))
    return (plan.suite_digest, plan.samples, plan.seed, ours) == (other.suite_digest, other.samples, other.seed, theirs)


def aligned(samples: Sequence[Sample], plan: Plan, onto: Plan) -> tuple[Sample, ...]:
    """Return samples of `plan` under the names of the points of `onto`, so that answers in different forms pair by problem.

    The points of two forms differ in their longest answer. Of plans in one form nothing changes.
    """
    if plan.form is onto.form:
        return tuple(samples)
    names = {replace(point, max_tokens=0): point.key for point in onto.grid}
    renamed = {point.key: names.get(replace(point, max_tokens=0), point.key) for point in plan.grid}
    return tuple(replace(sample, sampling=renamed.get(sample.sampling, sample.sampling)) for sample in samples)


class Trigger(StrEnum):
    """Why a benchmark ran."""

    GATE = "gate"
    HAND = "hand"
    SCHEDULE = "schedule"


class BenchmarkState(StrEnum):
    """`running` may be resumed; the others are ends."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One run of a plan on a version: pass@k, intervals, rates, times in `numbers`; a `decision` where it was held against a baseline."""

    id: BenchmarkId
    version: VersionId
    plan: Plan
    trigger: Trigger
    state: BenchmarkState
    started_at: Epoch
    endpoint: EndpointName | None = None
    ended_at: Epoch | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    rows_uri: str = ""
    """Where every sample can be read again (an MLflow artifact)."""
    baseline: BenchmarkId | None = None
    decision: Decision | None = None
    reason: str = ""
    run_url: str = ""
    """MLflow's page of this run."""
    submission: SubmissionId | None = None
    """Whose gate it is."""
    asked_by: PrincipalId | None = None
    """Who asked by hand."""
    progress: float = 0.0
    """The part of its answers that are there, 0 to 1."""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    """What it was told from its baseline, for display: difference, interval, problems lost and won."""
    studies: Mapping[str, Any] = field(default_factory=dict)
    """Studies of best-of policies on its rows by their id, for display."""
    flow_run: str | None = None
    runs: int = 0
    """How many flow runs were started for it; the next one's idempotency key is `<id>-<runs>`."""
    driver: str | None = None
    """The process that claimed it last, as the fencing token of its writes. A flow run that is started twice has two of them."""
    lease_until: Epoch = 0.0
    """A driver that lives keeps this in the future; reconcile takes over what is past."""
    updated_at: Epoch = 0.0
    revision: int = 0
    """Grows with every change; a row is stored by compare-and-set on it."""

    @property
    def ended(self) -> bool:
        """Whether it will change no more."""
        return self.state is not BenchmarkState.RUNNING

    @property
    def planned(self) -> bool:
        """Whether its plan is pinned (suite's digest, prompt, extractor); before that it says only what was asked for."""
        return bool(self.plan.suite_digest)
