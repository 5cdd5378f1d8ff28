"""The audit trail: who changed what."""

from __future__ import annotations

from typing import Any

from core.access import Actor
from core.ports import Clock, Records
from core.ports.records import AuditEntry


def write_audit(records: Records, clock: Clock, by: Actor, action: str, subject: str, **detail: Any) -> None:
    """Append an entry. `detail` has no prompts and no secrets."""
    records.audit.add(AuditEntry(clock.now(), by.audit_name, action, subject, detail))
