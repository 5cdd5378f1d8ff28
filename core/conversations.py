"""What users do: conversations, completions, feedback, usage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.ids import CompletionId, ConversationId, EndpointName, Epoch, KeyId, PrincipalId, RolloutId, VersionId


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which version a conversation stays with. `share` is the candidate's probability when it was drawn (0 outside a rollout)."""

    conversation: ConversationId
    endpoint: EndpointName
    version: VersionId
    rollout: RolloutId | None
    candidate: bool
    share: float
    assigned_at: Epoch
    synthetic: bool = False
    moved: bool = False
    """Its first model was withdrawn: it was given another, and its feedback counts for no one."""


class Outcome(StrEnum):
    """How one completion ended."""

    OK = "ok"
    ENGINE_ERROR = "engine_error"
    CLIENT_ERROR = "client_error"
    CLIENT_GONE = "client_gone"
    LOST = "lost"
    """The gateway died between reserving and settling; found in the spool afterwards."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in and out of one completion, as the engine counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer, as metered. No text is in it. `ttft_s` is the time to the first token (streams) or to the answer."""

    id: CompletionId
    conversation: ConversationId
    endpoint: EndpointName
    version: VersionId
    rollout: RolloutId | None
    key: KeyId
    principal: PrincipalId
    outcome: Outcome
    status: int
    usage: Usage | None
    finish_reason: str | None
    looped: bool
    """It ends in a loop (`core.degeneration`)."""
    started_at: Epoch
    ttft_s: float | None
    seconds: float
    streamed: bool
    nonsense: bool = False
    """The text has the marks of nonsense (`core.degeneration`). False where no text was seen, and in records of earlier releases."""


class Thumb(StrEnum):
    """A vote."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Feedback:
    """A thumb, a comment or both on one completion. A second one by the same principal replaces the first."""

    completion: CompletionId
    principal: PrincipalId
    thumb: Thumb | None
    comment: str
    at: Epoch
    endpoint: EndpointName
    version: VersionId
    conversation: ConversationId
    counted: bool = True
    """False when the conversation had been moved: its feedback counts for no one."""
