"""Exact loops: the longest periodic tail of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_COPIES = 4
MIN_TOKENS = 24
TAIL_CHARS = 4096  # a loop shows in its tail; bounds the work per answer


@dataclass(frozen=True, slots=True)
class Loop:
    """A repeating tail: its period and length in characters, and its length in tokens (estimated, see `repeating_tail`)."""

    period: int
    length: int
    tokens: float


def repeating_tail(text: str, completion_tokens: int) -> Loop | None:
    """Return the longest exactly repeating tail of `text`, or None when there is none.

    A tail repeats when it is periodic with some period p, at least 4 p long (the last copy may be cut by the token limit)
    and at least 24 tokens long. Tokens are counted as the tail's part of the characters times `completion_tokens`, because
    a gateway sees text and the engine's count, not token ids. A period of white space alone does not count.

    Method: with z the Z-array of the reversed text, z[p] + p is the length of the longest tail of period p
    (Gusfield, Algorithms on Strings, Trees and Sequences, 1997, section 1.4). O(len(text)).
    """
    tail = text[-TAIL_CHARS:]
    if completion_tokens < MIN_TOKENS or not tail.strip():
        return None
    tokens_per_char = completion_tokens / len(text)
    reach = z_array(tail[::-1])
    best: Loop | None = None
    for period in range(1, len(tail) // MIN_COPIES + 1):
        length = reach[period] + period
        if length < MIN_COPIES * period or length * tokens_per_char < MIN_TOKENS or not tail[-period:].strip():
            continue
        if best is None or length > best.length:
            best = Loop(period, length, length * tokens_per_char)
    return best


def z_array(text: Sequence[str]) -> list[int]:
    """Return z with z[i] = length of the longest common prefix of `text` and `text[i:]`; z[0] = 0."""
    size = len(text)
    z = [0] * size
    left = right = 0
    for i in range(1, size):
        reach = min(right - i, z[i - left]) if i < right else 0
        while i + reach < size and text[reach] == text[i + reach]:
            reach += 1
        z[i] = reach
        if i + reach > right:
            left, right = i, i + reach
    return z
