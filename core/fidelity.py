"""Fidelity of an engine to the weights: its probabilities compared with those of a reference.

The reference is computed once per version, by transformers in float32 (`seatrial_engine.reference`), while the model's files are at hand.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Likely:
    """One of the most probable tokens of a position, with the natural logarithm of its probability."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class ReferencePrompt:
    """A prompt, the greedy answer to it, and the most probable tokens at each position but the first.

    `top[i]` belongs to position i + 1 of `tokens + answer`, given all tokens before it; most probable first.
    """

    tokens: tuple[int, ...]
    answer: tuple[int, ...]
    top: tuple[tuple[Likely, ...], ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """A version's reference. Without prompts there is none, and `unavailable` states why."""

    made_by: str
    prompts: tuple[ReferencePrompt, ...] = ()
    unavailable: str = ""
