"""Submissions: one request to bring a model to an endpoint, and the steps it goes through."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from core.errors import Refused
from core.ids import EndpointName, Epoch, PrincipalId, RolloutId, SubmissionId, VersionId
from core.reasons import AnyReason, Reason
from core.versions import ModelRef

_ENDPOINT = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def endpoint_name(text: str) -> EndpointName:
    """Check a public model name (a DNS label: Kubernetes objects carry it). Raises Refused."""
    if not _ENDPOINT.fullmatch(text):
        raise Refused(
            f"{text[:100]!r} is not an endpoint name",
            reason=Reason.BAD_ENDPOINT_NAME,
            hint="use 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit",
        )
    return EndpointName(text)


class SubmissionState(StrEnum):
    """Queued, running and cancelling are on their way; the others are ends that are never left."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SERVING = "serving"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether this is an end state."""
        return self not in {SubmissionState.QUEUED, SubmissionState.RUNNING, SubmissionState.CANCELLING}


class StepName(StrEnum):
    """The steps of `deploy_model`, in their order."""

    RESOLVE = "resolve"
    DOWNLOAD = "download"
    CHECK = "check"
    TENSORIZE = "tensorize"
    START = "start"
    SMOKE = "smoke"
    FIDELITY = "fidelity"
    LATENCY = "latency"
    BENCHMARK = "benchmark"
    DEGENERATION = "degeneration"
    PUBLISH = "publish"
    REGISTER = "register"
    ROLL_OUT = "roll_out"
    ANNOUNCE = "announce"


class StepState(StrEnum):
    """Where a step stands. `reused`: its result was there already, nothing was done again."""

    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    REUSED = "reused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one submission. `progress` runs from 0 to 1; `attempt` counts from 1."""

    name: StepName
    state: StepState
    attempt: int
    started_at: Epoch
    ended_at: Epoch | None = None
    progress: float = 0.0
    message: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SubmissionRequest:
    """What a submitter asks for. The same `idempotency_key` from the same principal is the same submission."""

    model: ModelRef
    endpoint: EndpointName
    idempotency_key: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """A row first, a flow run second: this is the truth, the run only drives it."""

    id: SubmissionId
    request: SubmissionRequest
    submitter: PrincipalId
    state: SubmissionState
    created_at: Epoch
    updated_at: Epoch
    version: VersionId | None = None
    rollout: RolloutId | None = None
    reason: AnyReason | None = None
    """Why it ends otherwise than serving; None while nothing ends it."""
    message: str = ""
    """The sentence for the submitter: what, which."""
    hint: str = ""
    """What to do next."""
    flow_run: str | None = None
    runs: int = 0
    """How many flow runs were started for it; the next one's idempotency key is `<id>-<runs>`."""
    driver: str | None = None
    """The process that claimed it last, as the fencing token of its writes. A flow run that is started twice has two of them."""
    lease_until: Epoch = 0.0
    """A driver that lives keeps this in the future; reconcile takes over what is past."""
    revision: int = 0
    """Grows with every change; a row is stored by compare-and-set on it."""
    steps: tuple[Step, ...] = ()
