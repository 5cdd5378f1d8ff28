"""What the platform tells of benchmarks, as frozen dataclasses (`words` has them too). Times are aware datetimes in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Sampling:
    """One point of a benchmark's grid."""

    key: str
    temperature: float
    frequency_penalty: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why no process drives something that has not ended. `stuck`: an operator is needed."""

    reason: str
    stuck: bool
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One run of a suite on a model version. `numbers` holds pass@k, intervals, rates, times; of a grid also `NAME/POINT`."""

    id: str
    version: str
    suite: str
    form: str
    samples: int
    trigger: str
    state: str
    started_at: datetime
    model: str = ""
    endpoint: str | None = None
    submission: str | None = None
    asked_by: str = ""
    ended_at: datetime | None = None
    progress: float = 0.0
    suite_digest: str = ""
    prompt: str = ""
    extractor: str = ""
    plan: str = ""
    grid: tuple[Sampling, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    decision: str | None = None
    reason: str = ""
    baseline: str | None = None
    comparison: dict[str, Any] = field(default_factory=dict)
    studies: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    history: str | None = None
    waiting: Waiting | None = None

    @property
    def ended(self) -> bool:
        """Whether it will change no more."""
        return self.state != "running"


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a benchmark at one point of its grid. `rate` and `baseline` are the parts that passed, 0 to 1."""

    task_id: str
    sampling: str
    samples: int
    passed: int
    rate: float | None = None
    baseline: float | None = None
    loops: int = 0
    flaws: int = 0
    mean_seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a benchmark, judged."""

    task_id: str
    sampling: str
    index: int
    seed: int
    outcome: str
    text: str
    code: str = ""
    detail: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    mean_logprob: float | None = None
    seconds: float = 0.0
    cpu_s: float = 0.0
    isolation: str = ""
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two benchmarks, paired problem by problem: `found` has decision, reason, difference, low, high, p_value, lost, won."""

    candidate: str
    baseline: str
    found: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Power:
    """So many samples a problem catch a drop of so many points in the part `power` of cases."""

    problems: int
    samples: int
    points: float
    power: float


@dataclass(frozen=True, slots=True)
class Study:
    """A sampling study that was set going; its table appears in the benchmark's `studies`."""

    benchmark: str
    study: str
    run: str | None = None
