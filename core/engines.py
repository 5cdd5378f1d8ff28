"""Engines: one running vLLM that serves one model version."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from core.ids import Digest, Epoch, VersionId


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """All that it takes to start an engine for a version. Immutable: the same version is never applied with another spec.

    `model_uri` is where config, tokenizer and template lie, `tensors_uri` the tensorized weights (`file:///...` or `s3://...`).
    `memory_bytes` bounds the weights and the KV cache together; `max_model_len` is in tokens.
    """

    version: VersionId
    model_uri: str
    tensors_uri: str
    tensors_manifest: Digest
    max_model_len: int
    dtype: str
    memory_bytes: int
    weights_bytes: int = field(default=0, compare=False)
    """Size of the tensors; 0 where it is not known. The version determines it, so it does not tell two specs apart."""
    attention_heads: int = field(default=0, compare=False)
    """0 where it is not known. The version determines it too."""
    cache_bytes: int = 0
    """Size of the KV cache; 0 in specs of earlier releases and where it cannot be computed: then it follows from the weights' size."""
    concurrency: int = 0
    """Most conversations at a time on CPUs; 0 in specs of earlier releases: vLLM's default."""
    quantization: str = ""
    """vLLM's name of the weights' quantisation; empty where they have none, or vLLM finds it out from the config."""


class EngineProgram(StrEnum):
    """A program of the engine's environment that the platform runs; seatrial_engine/programs.py has the module of each."""

    TENSORIZE = "tensorize"
    REFERENCE = "reference"


class EnginePhase(StrEnum):
    """`ready` only after a real generation. `failed`: nothing starts it again until it is applied; `cause` and `detail` give the reason."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"


class Responsible(StrEnum):
    """Who can remove the cause of an engine's failure."""

    SUBMITTER = "submitter"
    OPERATOR = "operator"
    EITHER = "either"


class EngineCause(StrEnum):
    """Why an engine is not ready, for programs. The words for people are in `EngineState.detail` and may change at any time."""

    UNKNOWN = "unknown"
    """Also the cause in records that were written before causes were recorded."""
    WEIGHTS_REFUSED = "weights_refused"
    UNSUPPORTED_ARCHITECTURE = "unsupported_architecture"
    TOKENIZER = "tokenizer"
    CONTEXT_TOO_LONG = "context_too_long"
    EXCEPTION = "exception"
    EXITED = "exited"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    """SIGKILL without a witness: most often the kernel, because memory ran out."""
    ILLEGAL_INSTRUCTION = "illegal_instruction"
    SEGMENTATION_FAULT = "segmentation_fault"
    BUS_ERROR = "bus_error"
    ABORTED = "aborted"
    SIGNALLED = "signalled"
    START_TIMEOUT = "start_timeout"
    UNRESPONSIVE = "unresponsive"
    WEIGHTS_UNREADABLE = "weights_unreadable"
    PORT_TAKEN = "port_taken"
    DISK_FULL = "disk_full"
    ENVIRONMENT = "environment"
    UNSTARTABLE = "unstartable"
    IMAGE = "image"
    CONTAINER = "container"
    NOT_ADMITTED = "not_admitted"
    NO_ROOM = "no_room"
    WAITING = "waiting"
    ASLEEP = "asleep"

    @property
    def responsible(self) -> Responsible:
        """Who can remove this cause. An unforeseen cause, for example an exception in vLLM, can be the submitter's or the operator's."""
        if self in _OF_THE_MODEL:
            return Responsible.SUBMITTER
        return Responsible.OPERATOR if self in _OF_THE_PLATFORM else Responsible.EITHER


_OF_THE_MODEL = frozenset(
    {EngineCause.WEIGHTS_REFUSED, EngineCause.UNSUPPORTED_ARCHITECTURE, EngineCause.TOKENIZER, EngineCause.CONTEXT_TOO_LONG}
)
_OF_THE_PLATFORM = frozenset(
    {
        EngineCause.ILLEGAL_INSTRUCTION,
        EngineCause.BUS_ERROR,
        EngineCause.WEIGHTS_UNREADABLE,
        EngineCause.PORT_TAKEN,
        EngineCause.DISK_FULL,
        EngineCause.ENVIRONMENT,
        EngineCause.IMAGE,
        EngineCause.CONTAINER,
        EngineCause.NOT_ADMITTED,
        EngineCause.NO_ROOM,
        EngineCause.WAITING,
        EngineCause.ASLEEP,
    }
)


@dataclass(frozen=True, slots=True)
class EngineState:
    """What is known of an engine now. `address` is set while it is ready."""

    version: VersionId
    phase: EnginePhase
    address: str | None = None
    detail: str = ""
    """For people: what it is doing, or the cause of its failure in one sentence. Nothing decides by it."""
    cause: EngineCause | None = None
    """Why it is not ready, once something went wrong; None while nothing did."""
    restarts: int = 0
    since: Epoch = 0.0
    load_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether an engine fits on the cluster. `ever` is False if waiting cannot help: no machine is large enough."""

    fits: bool
    ever: bool = True
    reason: str = ""
    """For people, if it does not fit: the requested and the free resources."""


class Role(StrEnum):
    """What a version is to an endpoint."""

    STABLE = "stable"
    CANDIDATE = "candidate"
