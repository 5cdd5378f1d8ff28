"""Engines: one running vLLM that serves one model version."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from core.ids import Digest, Epoch, VersionId

ANOTHERS = "engine_of_another"
"""Reason of the Conflict where another installation, on the same machines, has an engine of the version."""


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
    quantization: str = ""
    """vLLM's name of the weights' quantisation; empty where they have none, or vLLM finds it out from the config."""


class EnginePhase(StrEnum):
    """`ready` only after a real generation. `failed`: it will not come up by itself; `detail` says why."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EngineState:
    """What is known of an engine now. `address` is set while it is ready."""

    version: VersionId
    phase: EnginePhase
    address: str | None = None
    detail: str = ""
    """For people: what it is doing, or the cause of its failure in one sentence."""
    restarts: int = 0
    since: Epoch = 0.0
    load_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """Whether an engine fits where it would run. `ever` is False when waiting cannot help: no machine is large enough."""

    fits: bool
    ever: bool = True
    reason: str = ""
    """For people, where it does not fit: what is asked for, what is there, what to do."""


class Role(StrEnum):
    """What a version is to an endpoint."""

    STABLE = "stable"
    CANDIDATE = "candidate"
