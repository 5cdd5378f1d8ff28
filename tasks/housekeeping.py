"""Housekeeping, once a day: what nothing needs any more is removed, kind by kind (`tasks/garbage.py`)."""

from __future__ import annotations

from core.leases import HOUSEKEEPING
from core.settings import Settings
from tasks.garbage import KINDS, collect
from tasks.service import Duty, Fence, Part
from wiring import Platform

_FIRST_S = 300.0
"""A new installation has nothing to remove, and its processor is busy with its start."""


def housekeeping_duty(settings: Settings) -> Duty:
    """Return the housekeeping service's duty."""
    parts = [(kind, _part(kind)) for kind in KINDS]
    return Duty(HOUSEKEEPING, settings.retention.housekeeping_s, (*parts, ("history", compact_history)), first_s=_FIRST_S)


def compact_history(here: Platform, _fence: Fence) -> tuple[str, ...]:
    """Let MLflow delete for good what was removed from it."""
    return ("MLflow deleted removed runs for good",) if here.history.compact() else ()


def _part(kind: str) -> Part:
    def part(here: Platform, fence: Fence) -> tuple[str, ...]:
        return tuple(f"{found.action} {found.name[:40]} ({found.bytes} bytes): {found.why}" for found in collect(here, kind, fence))

    return part
