"""What callers send: bodies, path parts and query parameters, bounded before any handler sees them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from core.access import Role
from core.benchmarks import MOST_POINTS, MOST_SAMPLES, Form
from core.endpoints import MOST_BEST_OF, BestOf, OnRegression
from core.ids import Epoch
from serving.control.text import plain

_TEN_YEARS_S = 10 * 366 * 86_400
_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

IdPart = Annotated[str, Path(pattern=_ID)]
NamePart = Annotated[str, Path(pattern=_NAME)]
NameQuery = Annotated[str | None, Query(pattern=_NAME)]
IdQuery = Annotated[str | None, Query(pattern=_ID)]
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[datetime | None, Query(description="a time, ISO 8601; without a zone it is UTC")]


def epoch(moment: datetime | None) -> Epoch | None:
    """Return a time as an epoch that databases and Prefect take (the years 1970 to 9999)."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())


class _Ask(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Submit(_Ask):
    """Bring a model to an endpoint. The same idempotency key from you again is the same submission."""

    model: Annotated[str, Field(min_length=1, max_length=4096, description="ORG/MODEL, ORG/MODEL@REVISION or an absolute folder")]
    endpoint: Annotated[str, Field(min_length=1, max_length=63, description="the public name that applications will call")]
    note: Annotated[str, Field(max_length=2000), AfterValidator(plain)] = ""
    idempotency_key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")] | None = None


_Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
_TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Bench(_Ask):
    """Ask every problem of a suite `samples` times at every temperature with every frequency penalty."""

    target: Annotated[
        str, Field(min_length=1, max_length=4096, description="an endpoint, ORG/MODEL[@COMMIT], or 8 characters of a version")
    ]
    suite: Annotated[str, Field(max_length=4096, pattern=r"^(/.+|[A-Za-z0-9][\w.:-]{0,99})$", description="a name, or a .jsonl file")] = (
        "harbour"
    )
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 1
    temperature: Annotated[list[_Temperature], Field(min_length=1, max_length=MOST_POINTS)] = [0.0]
    frequency_penalty: Annotated[list[_Penalty], Field(min_length=1, max_length=MOST_POINTS)] = [0.0]
    top_p: _TopP = 1.0
    max_tokens: Annotated[int, Field(ge=0, le=32_768, description="longest answer, in tokens; 0: the suite's own")] = 0
    form: Form = Form.OWN


class StudyAsk(_Ask):
    """Which ways of choosing are compared, and among how many answers each chooses."""

    policies: Annotated[list[Literal["random", "mean_logprob", "voting", "ranker"]], Field(min_length=1, max_length=4)] = [
        "random",
        "mean_logprob",
        "voting",
    ]
    best_of: Annotated[list[Annotated[int, Field(ge=1, le=MOST_SAMPLES)]], Field(min_length=1, max_length=20)] = [1, 4, 8]
    ranker_url: Annotated[str, Field(max_length=2000, pattern=r"^(https?://[!-~]+)?$", description="an OpenAI-compatible endpoint")] = ""
    ranker_model: Annotated[str, Field(max_length=200)] = ""


class SetPolicy(_Ask):
    """What an endpoint promises; what is left out stays as it is, null takes a default away."""

    keep_text_days: Annotated[int, Field(ge=0, le=3660)] = 0
    temperature: _Temperature | None = None
    top_p: _TopP | None = None
    frequency_penalty: _Penalty | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_BEST_OF)] = 1
    policy: BestOf = BestOf.RANDOM
    on_regression: OnRegression = OnRegression.ALERT


class CreateKey(_Ask):
    """Make a key for somebody."""

    name: Annotated[str, Field(max_length=200), AfterValidator(plain), Field(min_length=1, description="who will call with it")]
    role: Role
    endpoints: Annotated[list[str], Field(max_length=100, description="the endpoints it may call; empty: every one")] = []
    expires_in_s: Annotated[float, Field(gt=0, le=_TEN_YEARS_S, allow_inf_nan=False)] | None = None
    note: Annotated[str, Field(max_length=2000), AfterValidator(plain)] = ""
