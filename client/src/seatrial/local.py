"""What `seatrial up` wrote down on this machine about its services, read when the platform does not answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FATAL = ("X", "Z")
_STATE, _STARTED = 0, 19
"""Fields of /proc/PID/stat after the command's name."""


@dataclass(frozen=True, slots=True)
class LocalStack:
    """The services of a home: those that run, those that do not, and whether `seatrial up` itself runs."""

    home: Path
    up: bool
    running: tuple[str, ...]
    down: tuple[str, ...]


def local_stack(home: Path) -> LocalStack | None:
    """Return what is left of the stack of a home; None where `seatrial up` never ran or its file cannot be read."""
    try:
        document = json.loads((home / "run" / "stack.json").read_text(encoding="utf-8"))
        services: dict[str, dict[str, Any]] = document["services"]
        alive = {name: _alive(identity) for name, identity in services.items()}
        supervisor = document["supervisor"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    running = tuple(name for name, lives in alive.items() if lives)
    down = tuple(name for name, lives in alive.items() if not lives)
    return LocalStack(home, supervisor is not None and _alive(supervisor), running, down)


def _alive(identity: dict[str, Any]) -> bool:
    """Return whether that very process runs: its start time tells it from a later one with the same number."""
    try:
        stat = Path(f"/proc/{int(identity['pid'])}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return stat[_STATE] not in _FATAL and int(stat[_STARTED]) == int(identity["started"])
