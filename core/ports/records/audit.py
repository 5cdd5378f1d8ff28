"""The audit trail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from core.ids import Epoch


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to which thing. Never prompts, never secrets."""

    at: Epoch
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class Audit(Protocol):
    """The trail that only grows."""

    def add(self, entry: AuditEntry) -> None:
        """Append."""
        ...

    def find(self, *, subject: str | None = None, limit: int = 100) -> tuple[AuditEntry, ...]:
        """Return entries, newest first."""
        ...
