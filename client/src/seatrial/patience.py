"""Watching something until it ends, with a limit on waiting for what does not come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from seatrial.errors import NOT_OURS, Unavailable
from seatrial.scores import Waiting


class Watched(Protocol):
    """A submission or a benchmark."""

    @property
    def ended(self) -> bool: ...  # noqa: D102
    @property
    def waiting(self) -> Waiting | None: ...  # noqa: D102


R = TypeVar("R")
W = TypeVar("W", bound=Watched)


class Patience:
    """Raises Unavailable once work has been stuck for `limit_s`; a process that drives it, or a queue that it waits in, ends that."""

    def __init__(self, limit_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._monotonic = monotonic
        self._since: float | None = None

    def see(self, waiting: Waiting | None) -> None:
        """Note why the work waits now. Raises Unavailable with that reason."""
        if waiting is None or waiting.reason == "busy":
            self._since = None
        elif waiting.stuck:
            now = self._monotonic()
            self._since = now if self._since is None else self._since
            if now - self._since > self._limit_s:
                raise Unavailable(f"stuck for {self._limit_s:.0f} s: {waiting.message}", hint=waiting.hint, reason=waiting.reason)


class Asking:
    """Repeats a call each `interval_s` while the platform does not answer, for `patience_s` at most from the first failure."""

    def __init__(
        self, pause: Callable[[float], None], *, interval_s: float, patience_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._pause = pause
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._monotonic = monotonic

    def answered(self, call: Callable[[], R]) -> R:
        """Return what `call` returns. Raises Unavailable once the platform has not answered for `patience_s`."""
        since: float | None = None
        while True:
            try:
                return call()
            except Unavailable as error:
                if error.reason == NOT_OURS:  # another service answers there
                    raise
                now = self._monotonic()
                since = now if since is None else since
                if now - since > self._patience_s:
                    raise
            self._pause(self._interval_s)


def watched(
    get: Callable[[], W],
    pause: Callable[[float], None],
    *,
    interval_s: float,
    patience_s: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[W]:
    """Yield what `get` returns each `interval_s` until it has ended; the last one is its end.

    A platform that does not answer is waited for, `patience_s` at most; so is work that cannot be started. Then Unavailable is raised.
    """
    asking = Asking(pause, interval_s=interval_s, patience_s=patience_s, monotonic=monotonic)
    patience = Patience(patience_s, monotonic)
    while True:
        current = asking.answered(get)
        yield current
        if current.ended:
            return
        patience.see(current.waiting)
        pause(interval_s)
