"""The ledger on a spool of files: lines are appended, and shipped to the database in batches (port: core/ports/ledger.py).

    <folder>/lock            held by the one process that appends
    <folder>/0000000042.log  segments, one JSON document a line; the last is appended to, the others wait to be shipped
    <folder>/rejected/       lines that are not records, or that the database cannot hold: kept for an operator, never blocking

A segment is deleted once the database has it, so the existing segments are the progress of shipping. Reservations in it that have
no end are first written again to the segment in use, so that a SIGKILL at any moment leaves each of them in some segment.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from core.conversations import Assignment, Completion, Feedback, Outcome
from core.errors import NotFound, Refused
from core.ids import CompletionId
from core.ports.ledger import Reservation
from core.ports.records import Conversations
from registry.codec import plain
from registry.spool import Segments, Unit, read_units

SEGMENT_BYTES = 1024 * 1024
REMEMBERED = 100_000


class SpoolLedger:
    """Implements `Ledger`. Thread-safe: reserve and settle may stand on an event loop while another thread ships.

    One process a folder: Conflict while another one holds it. What a dead one left there is shipped first. `conversations` is
    only spoken to by `find` and `ship`.
    """

    def __init__(
        self, folder: Path, conversations: Conversations, *, segment_bytes: int = SEGMENT_BYTES, remembered: int = REMEMBERED
    ) -> None:
        self._segments = Segments(folder, segment_bytes)
        self._conversations = conversations
        self._open: dict[CompletionId, Reservation] = {}
        self._recent: OrderedDict[CompletionId, Completion] = OrderedDict()
        self._remembered = remembered
        self._lock = threading.Lock()
        self._shipping = threading.Lock()
        self._recall()

    @property
    def rejected(self) -> int:
        """How many lines this process put aside."""
        return self._segments.rejected

    @property
    def backlog_bytes(self) -> int:
        """How much waits to be shipped."""
        return self._segments.size()

    def reserve(self, reservation: Reservation) -> None:
        """Write down that a completion begins."""
        draft = reservation.completion
        line = _line({"kind": "reserve", "completion": _plain_completion(draft), "assignment": _plain_assignment(reservation.assignment)})
        with self._lock:
            self._segments.append(line)
            self._open[draft.id] = reservation
            self._remember(draft)

    def settle(self, completion: Completion) -> None:
        """Write down how it ended."""
        line = _line({"kind": "settle", "completion": _plain_completion(completion)})
        with self._lock:
            self._segments.append(line)
            self._open.pop(completion.id, None)
            self._remember(completion)

    def vote(self, feedback: Feedback) -> None:
        """Keep a vote for good: it is on the disk when this returns. Other appends do not wait for the disk."""
        line = _line({"kind": "vote", "feedback": _plain_feedback(feedback)})
        with self._lock:
            flush = self._segments.append_for_good(line)
        flush()

    def find(self, completion: CompletionId) -> Completion | None:
        """Return a settled or reserved completion, from memory or the database, or None."""
        with self._lock:
            known = self._recent.get(completion)
        if known is not None:
            return known
        try:
            return self._conversations.completion(completion)
        except NotFound:
            return None

    def ship(self) -> int:
        """Bring all that the spool holds now into the database, oldest first, and return how many records."""
        with self._shipping:
            shipped = sum(self._ship(path) for path in self._segments.closed())
            with self._lock:
                self._segments.rotate()
            return shipped + sum(self._ship(path) for path in self._segments.closed())

    def close(self) -> None:
        """Let another process have the folder. Nothing is lost by not calling it."""
        with self._shipping, self._lock:
            self._segments.close()

    def _ship(self, path: Path) -> int:
        units, broken = read_units(path)
        unsettled = _unsettled(units)
        lost = [_lost(unit) for unit in unsettled] if self._segments.is_of_the_dead(path) else []
        refused = self._record(units + lost)
        self._segments.reject(path, broken + refused)
        with self._lock:
            self._carry([] if lost else unsettled)
        self._segments.delete(path)
        return len(units) - len(refused)

    def _record(self, units: list[Unit]) -> list[bytes]:
        """Write `units` in one transaction; halve a batch that the database refuses until the lines at fault stand alone."""
        try:
            self._conversations.record(
                [unit.assignment for unit in units if unit.assignment is not None],
                [unit.completion for unit in units if unit.kind == "settle" and unit.completion is not None],
                [unit.feedback for unit in units if unit.feedback is not None],
            )
        except Refused:
            if len(units) == 1:
                return [units[0].line]
            half = len(units) // 2
            return self._record(units[:half]) + self._record(units[half:])
        return []

    def _carry(self, unsettled: list[Unit]) -> None:
        for unit in unsettled:
            if unit.completion is not None and unit.completion.id in self._open:
                self._segments.append(unit.line)

    def _remember(self, completion: Completion) -> None:
        self._recent[completion.id] = completion
        self._recent.move_to_end(completion.id)
        if len(self._recent) > self._remembered:
            self._recent.popitem(last=False)

    def _recall(self) -> None:
        """Know what a dead process left: votes on it may come before it is shipped. The newest come first, as many as fit."""
        newest: dict[CompletionId, tuple[str, Completion]] = {}
        for path in reversed(self._segments.closed()):
            for unit in reversed(read_units(path)[0]):
                standing = newest.get(unit.completion.id) if unit.completion is not None else None
                if unit.completion is not None and (standing is None or (standing[0], unit.kind) == ("reserve", "settle")):
                    newest[unit.completion.id] = (unit.kind, unit.completion)
            if len(newest) >= self._remembered:
                break
        for _kind, completion in reversed(list(newest.values())):
            self._remember(completion)


def _unsettled(units: list[Unit]) -> list[Unit]:
    """Return the reservations without an end in `units`. An end may stand before a reservation that was carried here."""
    settled = {unit.completion.id for unit in units if unit.kind == "settle" and unit.completion is not None}
    return [unit for unit in units if unit.kind == "reserve" and unit.completion is not None and unit.completion.id not in settled]


def _lost(reserved: Unit) -> Unit:
    """Return how a reservation of a dead process ended. An end in a later segment replaces this one in the database."""
    draft = reserved.completion
    return Unit(reserved.line, "settle", completion=draft and replace(draft, outcome=Outcome.LOST))


def _line(document: dict[str, Any]) -> bytes:
    return _encode(document).encode() + b"\n"


_encode: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def _flat(kind: type[Any]) -> Callable[[Any], dict[str, Any]]:
    """Return a quick `registry.codec.plain` for a flat dataclass: the hot path's cost is here. The encoder knows string enums."""
    names = tuple(item.name for item in fields(kind))
    values = attrgetter(*names)
    return lambda record: dict(zip(names, values(record), strict=True))


_plain_assignment = _flat(Assignment)
_plain_completion_but_usage = _flat(Completion)
_plain_feedback = _flat(Feedback)


def _plain_completion(completion: Completion) -> dict[str, Any]:
    document = _plain_completion_but_usage(completion)
    document["usage"] = plain(completion.usage)
    return document
