"""The types of the API's responses, as frozen dataclasses. Times are aware datetimes in UTC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from seatrial.errors import NOT_OURS, Unavailable
from seatrial.scores import Answer, Benchmark, Comparison, Power, Problem, Sampling, Study, Waiting

__all__ = [
    "Answer", "Benchmark", "Caller", "Chunk", "Cohort", "Comparison", "Endpoint", "Engine", "Feedback", "Finding", "Key", "LeaderboardRow",
    "Links", "LogLine", "Logs", "Model", "PlatformHealth", "PlatformProblem", "Policy", "Power", "Problem", "Report", "Rollback",
    "Rollout", "Sampling", "Step", "Study", "Submission", "TrialReport", "Verdict", "Waiting", "expected", "read", "read_all",
]  # fmt: skip
T = TypeVar("T")
STEPS = (
    "resolve",
    "download",
    "check",
    "tensorize",
    "start",
    "smoke",
    "fidelity",
    "latency",
    "benchmark",
    "degeneration",
    "publish",
    "register",
    "roll_out",
    "announce",
)
ENDED = frozenset({"serving", "refused", "rolled_back", "cancelled", "failed"})


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a submission. `progress` runs from 0 to 1, `attempt` counts from 1."""

    name: str
    state: str
    attempt: int
    started_at: datetime
    ended_at: datetime | None = None
    progress: float = 0.0
    message: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What a trial said, in short."""

    kind: str
    decision: str
    reason: str
    hint: str
    numbers: dict[str, Any]
    seconds: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a trial's report."""

    name: str
    passed: bool
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What a trial said, whole."""

    kind: str
    decision: str
    reason: str
    hint: str
    numbers: dict[str, Any]
    seconds: float
    at: datetime
    key: str = ""
    findings: tuple[Finding, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Links:
    """Pages for a browser, and the gateway."""

    run: str | None = None
    model: str | None = None
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """One request to bring a model to an endpoint. Ended otherwise than serving: `reason`, `message` and `hint` say why."""

    id: str
    model: str
    endpoint: str
    state: str
    created_at: datetime
    updated_at: datetime
    submitter: str = ""
    note: str = ""
    version: str | None = None
    rollout: str | None = None
    reason: str = ""
    message: str = ""
    hint: str = ""
    run: str | None = None
    runs: int = 0
    steps: tuple[Step, ...] = ()
    reports: tuple[Report, ...] = ()
    benchmark: str | None = None
    waiting: Waiting | None = None
    links: Links = field(default_factory=Links)

    @property
    def ended(self) -> bool:
        """Whether it will change no more."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that the flow run logged."""

    id: str
    at: datetime
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Logs:
    """What the flow run logged, and the last lines of the engine's output."""

    flow: tuple[LogLine, ...] = ()
    engine: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A model version; `reports` only when it was asked for by its id."""

    id: str
    source: str
    commit: str
    licence: str
    architecture: str
    dtype: str
    weights_bytes: int
    max_model_len: int
    created_at: datetime
    registered_uri: str | None = None
    link: str | None = None
    reports: tuple[TrialReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Engine:
    """One running engine of an endpoint."""

    version: str
    phase: str
    detail: str = ""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """What an endpoint promises. Sampling defaults that are None are the engine's own."""

    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    best_of: int = 1
    policy: str = "random"
    on_regression: str = "alert"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A public model name and the versions behind it. `share`: what the candidate gets of new conversations, 0 to 1."""

    name: str
    created_at: datetime
    stable: str | None = None
    previous: str | None = None
    candidate: str | None = None
    rollout: str | None = None
    share: float = 0.0
    keep_text_days: int = 0
    policy: Policy = field(default_factory=Policy)
    engines: tuple[Engine, ...] = ()


@dataclass(frozen=True, slots=True)
class Cohort:
    """What one version did in a rollout's conversations."""

    conversations: int = 0
    bad: int = 0
    completions: int = 0
    errors: int = 0
    slow: int = 0
    loops: int = 0
    nonsense: int = 0
    thumbs_up: int = 0
    thumbs_down: int = 0
    ttft_p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Pass, fail or inconclusive, with its numbers. `e_value` None: beyond all numbers."""

    decision: str
    reason: str
    stable: Cohort
    candidate: Cohort
    at: datetime
    e_value: float | None = None
    thumbs_e_value: float | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """Bringing a candidate to stable, step by step."""

    id: str
    submission: str
    endpoint: str
    candidate: str
    state: str
    step: int
    share: float
    started_at: datetime
    step_started_at: datetime
    deadline: datetime
    stable: str | None = None
    ended_at: datetime | None = None
    reason: str = ""
    withdrawal: str | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Rollback:
    """What a rollback set going: the active rollout that goes back, or a submission of the version before."""

    rollout: Rollout | None = None
    submission: Submission | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """A thumb, a comment or both on one completion."""

    completion: str
    conversation: str
    endpoint: str
    version: str
    at: datetime
    thumb: str | None = None
    comment: str = ""
    counted: bool = True
    keep_text_days: int = 0


@dataclass(frozen=True, slots=True)
class PlatformProblem:
    """One problem of the platform: what has it, why, since when, and the command to run next. `kind` is a stable word."""

    kind: str
    severity: str
    subject: str
    cause: str
    action: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class PlatformHealth:
    """All problems, the most urgent first. `healthy` while none is more than a notice."""

    at: datetime
    healthy: bool
    problems: tuple[PlatformProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """One row of the leaderboard. `pass_at_1` is None for what was never benchmarked."""

    endpoint: str
    version: str
    model: str
    submitter: str
    thumbs_up: int
    thumbs_down: int
    conversations: int
    completions: int
    prompt_tokens: int
    completion_tokens: int
    loops: int
    errors: int
    pass_at_1: float | None = None
    nonsense: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """A key. `secret` only from `keys.create`, the one time that it is shown."""

    id: str
    name: str
    role: str
    created_at: datetime
    endpoints: tuple[str, ...] = ()
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    note: str = ""
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a key is."""

    key: str
    name: str
    role: str
    endpoints: tuple[str, ...] = ()
    expires_at: datetime | None = None
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an answer as it arrives. `completion` is the id to give feedback on."""

    text: str
    completion: str
    finish_reason: str | None = None


def read(kind: type[T], document: Mapping[str, Any]) -> T:
    """Return `document` as `kind`. Fields that this client does not know are left out, so that a newer platform can add some.

    Raises Unavailable for a document of another shape.
    """
    with expected(kind.__name__):
        return _read(kind, document)


def read_all(kind: type[T], documents: Iterable[Mapping[str, Any]]) -> tuple[T, ...]:
    """Return each document as `read` does."""
    with expected(f"a list of {kind.__name__}"):
        return tuple(_read(kind, document) for document in documents)


@contextmanager
def expected(shape: str) -> Iterator[None]:
    """Raise Unavailable where the body reads an answer of another shape: another service answers there, or another release."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        hint = "check that the URL is a seatrial control API, and that client and platform are of the same release"
        raise Unavailable(f"the answer must be {shape}, but it could not be read: {error!r}", hint=hint, reason=NOT_OURS) from error


def _read(kind: type[T], document: Mapping[str, Any]) -> T:
    if not isinstance(document, Mapping):
        raise TypeError(f"expected a document, got {document!r:.80}")
    shape: Any = kind  # `cache` wants to know it hashable
    return kind(**{name: _value(hint, document[name]) for name, hint in _shape(shape) if name in document})


@cache
def _shape(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((item.name, hints[item.name]) for item in fields(kind))


def _value(hint: Any, value: Any) -> Any:
    if get_origin(hint) in {Union, UnionType}:
        if value is None:
            return None
        hint = next(option for option in get_args(hint) if option is not type(None))
    if hint is datetime:
        return datetime.fromisoformat(value)
    if get_origin(hint) is tuple:
        return tuple(_value(get_args(hint)[0], item) for item in value)
    return _read(hint, value) if is_dataclass(hint) and isinstance(hint, type) else value
