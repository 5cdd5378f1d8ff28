"""One completion from its reservation to its settlement."""

from __future__ import annotations

import logging
from dataclasses import replace

from core.access import Caller
from core.conversations import Completion, Outcome, Usage
from core.errors import Fault
from core.ids import CompletionId
from core.ports import Clock, Ledger
from core.ports.ledger import Reservation
from serving.gateway.chunks import AnswerTexts, Piece
from serving.gateway.metrics import Metrics
from serving.gateway.placement import Placed
from serving.gateway.requests import Ask

_log = logging.getLogger(__name__)
GONE_STATUS = 499


class Meter:
    """Takes down what an answer costs and how it ends; written once before the engine is asked and once after."""

    def __init__(self, ledger: Ledger, metrics: Metrics, clock: Clock) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._clock = clock
        self._texts = AnswerTexts()
        self._sent: int | None = None
        self._usage: Usage | None = None
        self._ttft_s: float | None = None
        self._reasons: dict[int, str] = {}

    def reserve(self, completion: CompletionId, placed: Placed, caller: Caller, ask: Ask) -> None:
        """Write down that it begins. Fault when that cannot be done: then it must not begin."""
        assignment = placed.assignment
        self._began = self._clock.monotonic()
        self._draft = Completion(
            id=completion, conversation=assignment.conversation, endpoint=assignment.endpoint, version=assignment.version,
            rollout=assignment.rollout, key=caller.key, principal=caller.principal, outcome=Outcome.LOST, status=0, usage=None,
            finish_reason=None, looped=False, started_at=self._clock.now(), ttft_s=None, seconds=0.0, streamed=ask.stream,
        )  # fmt: skip
        self._ledger.reserve(Reservation(self._draft, assignment))
        self._metrics.in_flight.inc()
        self._metrics.spooled += 1

    def note(self, piece: Piece) -> None:
        """Take in what came from the engine."""
        if self._ttft_s is None and piece.begun:
            self._ttft_s = self._clock.monotonic() - self._began
        self._texts.add(piece)
        self._usage = piece.usage or self._usage
        if piece.finish_reasons:
            self._reasons.update(piece.finish_reasons)

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, None while it has not: choice 0's, or the one's that was sent."""
        return self._reasons.get(self._sent or 0)

    def sent(self, index: int) -> None:
        """Say that of all the choices the client sees this one only: loops in the others are not its experience."""
        self._sent = index

    def settle(self, outcome: Outcome, status: int) -> None:
        """Write down how it ended. What cannot be written is logged: the answer is out already, and the reservation stays as `lost`."""
        seconds = self._clock.monotonic() - self._began
        ttft_s = seconds if self._ttft_s is None and outcome is Outcome.OK else self._ttft_s
        looped = self._usage is not None and self._texts.looped(self._usage.completion_tokens, self._sent)
        ended = replace(
            self._draft, outcome=outcome, status=status, usage=self._usage, finish_reason=self.finish_reason, looped=looped,
            ttft_s=ttft_s, seconds=seconds,
        )  # fmt: skip
        self._metrics.in_flight.dec()
        self._metrics.completed(ended)
        try:
            self._ledger.settle(ended)
            self._metrics.spooled += 1
        except Fault:
            self._metrics.ledger_faults.inc()
            _log.exception("completion not settled", extra={"completion": ended.id})
        if outcome is Outcome.ENGINE_ERROR:
            _log.warning("engine error", extra={"completion": ended.id, "version": ended.version, "status": status})
