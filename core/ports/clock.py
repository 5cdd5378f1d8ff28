"""Time as a parameter."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from core.ids import Epoch


class Clock(Protocol):
    """Wall time in seconds since the epoch, and waiting. No code of ours calls `time.sleep` or reads the time elsewhere."""

    def now(self) -> Epoch:
        """Return the wall time; comparable between machines."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards; comparable within one process only."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after `seconds` (at once when not positive)."""
        ...


class SystemClock:
    """Real time."""

    def now(self) -> Epoch:
        """Return the wall time."""
        return time.time()

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Block this thread."""
        if seconds > 0:
            threading.Event().wait(seconds)


class VirtualClock:
    """Time that passes only when somebody waits: the tests' double."""

    def __init__(self, start: Epoch = 1_700_000_000.0) -> None:
        self._now = start

    def now(self) -> Epoch:
        """Return the virtual wall time."""
        return self._now

    def monotonic(self) -> float:
        """Return the same virtual seconds."""
        return self._now

    def wait(self, seconds: float) -> None:
        """Let `seconds` pass at once."""
        self._now += max(0.0, seconds)
