"""Assignments in the memory of one gateway."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from itertools import islice

from core.conversations import Assignment
from core.ids import ConversationId, EndpointName, Epoch

_Place = tuple[EndpointName, ConversationId]


class InProcessAssignments:
    """`core.ports.Assignments` for one gateway: at most `capacity` conversations, each forgotten after `idle_s` without a request."""

    def __init__(self, capacity: int = 200_000, idle_s: float = 6 * 3600.0) -> None:
        self._capacity = capacity
        self._idle_s = idle_s
        self._standing: OrderedDict[_Place, tuple[Assignment, Epoch]] = OrderedDict()  # least recently used first
        self._names: Counter[ConversationId] = Counter()

    async def place(self, proposal: Assignment, now: Epoch) -> Assignment:
        """Return the standing assignment, or store and return the proposal."""
        self._forget_idle(now)
        standing = self._standing.get((proposal.endpoint, proposal.conversation))
        return self._put(proposal if standing is None else standing[0], now)

    async def move(self, proposal: Assignment, now: Epoch) -> Assignment:
        """Replace the assignment and return it."""
        self._forget_idle(now)
        return self._put(proposal, now)

    async def restore(self, remembered: Iterable[Assignment], now: Epoch) -> None:
        """Take in what is not there yet, newest first, behind everything that stands; what does not fit is left out."""
        self._forget_idle(now)
        for assignment in islice(remembered, self._capacity):
            place = (assignment.endpoint, assignment.conversation)
            if place not in self._standing and len(self._standing) < self._capacity:
                self._standing[place] = (assignment, now)
                self._standing.move_to_end(place, last=False)
                self._names[assignment.conversation] += 1

    async def known(self, conversation: ConversationId) -> bool:
        """Tell whether the conversation has an assignment."""
        return conversation in self._names

    def _put(self, assignment: Assignment, now: Epoch) -> Assignment:
        place = (assignment.endpoint, assignment.conversation)
        if place not in self._standing:
            self._names[assignment.conversation] += 1
        self._standing[place] = (assignment, now)
        self._standing.move_to_end(place)
        while len(self._standing) > self._capacity:
            self._forget_oldest()
        return assignment

    def _forget_idle(self, now: Epoch) -> None:
        while self._standing and next(iter(self._standing.values()))[1] + self._idle_s < now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        (_endpoint, conversation), _ = self._standing.popitem(last=False)
        self._names[conversation] -= 1
        if not self._names[conversation]:
            del self._names[conversation]
