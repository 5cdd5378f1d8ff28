"""Identities as types of their own, so that one cannot stand where another is meant."""

from __future__ import annotations

import secrets
import time
from typing import NewType

SubmissionId = NewType("SubmissionId", str)
"""`sub-` and 26 characters; sorts by time of creation."""

VersionId = NewType("VersionId", str)
"""Content address of a model version: hex sha256 over path and sha256 of every served file (64 characters)."""

Digest = NewType("Digest", str)
"""Hex sha256 (64 characters) of some content."""

EndpointName = NewType("EndpointName", str)
"""The public model name that applications call: `[a-z0-9][a-z0-9-]{0,62}`."""

RolloutId = NewType("RolloutId", str)
ConversationId = NewType("ConversationId", str)
CompletionId = NewType("CompletionId", str)
"""As the application sees it: `chatcmpl-<request id>` or `cmpl-<request id>`."""

BenchmarkId = NewType("BenchmarkId", str)
"""`bm-` and 26 characters; sorts by time of creation."""

PrincipalId = NewType("PrincipalId", str)
KeyId = NewType("KeyId", str)

Epoch = float
"""Seconds since 1970-01-01T00:00:00Z."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def new_id(prefix: str) -> str:
    """Return a fresh id that sorts by time: 48 bits of milliseconds, then 80 random bits, base 32."""
    number = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
    digits = "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
    return f"{prefix}-{digits}"
