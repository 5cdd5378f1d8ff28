"""Asks an engine many things at once: a failure is tried again, then fails its own row; too many end the run."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from core.errors import Refused, Transient
from core.ports.clock import Clock, SystemClock
from evals.harness.job import Patience
from evals.harness.rows import Row

Ask = Callable[[], Row]
T = TypeVar("T")


class Asking:
    """Runs questions, `concurrency` at a time."""

    def __init__(self, concurrency: int, patience: Patience, clock: Clock | None = None) -> None:
        self._concurrency = concurrency
        self._patience = patience
        self._clock = clock or SystemClock()
        self._failed = 0
        self._lock = threading.Lock()

    def each(self, questions: Sequence[tuple[Row, Ask]], take: Callable[[Row], None], total: int) -> None:
        """Hand every question's row to `take` as it comes; a question is its bare row and what fills it.

        Raises Transient when more than the allowed part of `total` failed for good, and what any question raises as Fault.
        """
        allowed = max(1, int(total * self._patience.failed_share))
        with ThreadPoolExecutor(self._concurrency, "ask") as pool:
            futures = [pool.submit(self._one, bare, ask, take, allowed) for bare, ask in questions]
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            pool.shutdown(wait=False, cancel_futures=True)
        for future in finished:
            future.result()

    def patiently(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns; a Transient error is tried again after a pause, and raised at last."""
        for attempt in range(1, self._patience.attempts + 1):
            try:
                return ask()
            except Transient as error:
                if attempt == self._patience.attempts:
                    raise
                self._clock.wait(self._pause(attempt, error))
        raise AssertionError("unreachable")

    def _one(self, bare: Row, ask: Ask, take: Callable[[Row], None], allowed: int) -> None:
        try:
            row = self.patiently(ask)
        except Refused as error:
            row = Row(*bare.identity, bare.seed, refused=error.what[:500])
        except Transient as error:
            row = Row(*bare.identity, bare.seed, failed=error.what[:500])
            with self._lock:
                self._failed += 1
                beyond = self._failed > allowed
            if beyond:
                take(row)
                raise Transient(
                    f"{self._failed} answers failed for good, more than the {allowed} that may: {error.what}", hint="see the engine's log"
                ) from error
        take(row)

    def _pause(self, attempt: int, error: Transient) -> float:
        longest = self._patience.longest_pause_s
        usual = min(longest, self._patience.first_pause_s * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        return min(longest, error.retry_after_s) if error.retry_after_s is not None else usual
