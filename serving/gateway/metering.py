"""The ledger entries of one completion: its reservation and its settlement."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from types import TracebackType
from typing import Self

from core.access import Caller
from core.conversations import Completion, Outcome, Usage
from core.errors import Fault
from core.ids import CompletionId
from core.ports import Clock, Ledger
from core.ports.ledger import Reservation
from serving.gateway.chunks import Chunk, OutputTexts
from serving.gateway.metrics import Metrics
from serving.gateway.placement import Placement
from serving.gateway.requests import CompletionRequest

_log = logging.getLogger(__name__)
CLIENT_GONE_STATUS = 499
_FAILED_STATUS = 500


class UsageRecorder:
    """Records the usage and the outcome of one completion: `reserve` before the engine gets the request, `settle` after the answer.

    As a context manager around the rest of the request it settles a completion that an exception ended before its settlement. A
    cancelled request (the gateway shuts down) counts as one whose client disconnected. Any other exception counts as an error of the
    version, because a version whose answers the gateway cannot handle fails for its users.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, clock: Clock) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._texts = OutputTexts()
        self._choice: int | None = None
        self._usage: Usage | None = None
        self._ttft_s: float | None = None
        self._finish_reasons: dict[int, str] = {}
        self._settled = False

    def __enter__(self) -> Self:
        """Return the recorder; the completion was reserved."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Settle the completion unless that was done."""
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self.settle(Outcome.CLIENT_GONE, CLIENT_GONE_STATUS)
        else:
            self.settle(Outcome.ENGINE_ERROR, _FAILED_STATUS)

    def reserve(self, completion: CompletionId, placement: Placement, caller: Caller, request: CompletionRequest) -> None:
        """Write the reservation. Fault when that fails; the request must then not be sent to an engine."""
        assignment = placement.assignment
        self._started = self._clock.monotonic()
        self._draft = Completion(
            id=completion, conversation=assignment.conversation, endpoint=assignment.endpoint, version=assignment.version,
            rollout=assignment.rollout, key=caller.key, principal=caller.principal, outcome=Outcome.LOST, status=0, usage=None,
            finish_reason=None, looped=False, started_at=self._clock.now(), ttft_s=None, seconds=0.0, streamed=request.stream,
        )  # fmt: skip
        self._ledger.reserve(Reservation(self._draft, assignment))
        self._metrics.in_flight.inc()
        self._metrics.spooled += 1

    def record(self, chunk: Chunk) -> None:
        """Record a chunk of the engine's answer."""
        if self._ttft_s is None and chunk.has_output:
            self._ttft_s = self._clock.monotonic() - self._started
        self._texts.add(chunk)
        self._usage = chunk.usage or self._usage
        if chunk.finish_reasons:
            self._finish_reasons.update(chunk.finish_reasons)

    @property
    def finish_reason(self) -> str | None:
        """The finish reason of the selected choice (0 by default); None before its end."""
        return self._finish_reasons.get(self._choice or 0)

    def select_choice(self, index: int) -> None:
        """Record that the client gets only this choice. Loops and nonsense in the others then do not count."""
        self._choice = index

    def settle(self, outcome: Outcome, status: int) -> None:
        """Write the settlement. A second call does nothing.

        A failure is logged and not raised: the answer was sent, and the reservation counts as `lost`.
        """
        if self._settled:
            return
        self._settled = True
        self._metrics.in_flight.dec()
        seconds = self._clock.monotonic() - self._started
        ttft_s = seconds if self._ttft_s is None and outcome is Outcome.OK else self._ttft_s
        looped, nonsense = self._judge()
        ended = replace(
            self._draft, outcome=outcome, status=status, usage=self._usage, finish_reason=self.finish_reason, looped=looped,
            nonsense=nonsense, ttft_s=ttft_s, seconds=seconds,
        )  # fmt: skip
        self._metrics.completed(ended)
        try:
            self._ledger.settle(ended)
            self._metrics.spooled += 1
        except Fault:
            self._metrics.ledger_faults.inc()
            _log.exception("completion not settled", extra={"completion": ended.id})
        if outcome is Outcome.ENGINE_ERROR:
            _log.warning("engine error", extra={"completion": ended.id, "version": ended.version, "status": status})

    def _judge(self) -> tuple[bool, bool]:
        """Return whether the answer loops, and whether it is nonsense. Without the engine's count of tokens neither is known: False."""
        if self._usage is None:
            return False, False
        return self._texts.judge(self._usage.completion_tokens, self._finish_reasons, self._choice)
