"""Assignments in the memory of one gateway."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from itertools import islice

from core.conversations import Assignment
from core.ids import ConversationId, EndpointName, Epoch

_Key = tuple[EndpointName, ConversationId]


class InProcessAssignments:
    """`core.ports.Assignments` for one gateway: at most `capacity` conversations, each removed after `idle_s` without a request."""

    def __init__(self, capacity: int = 200_000, idle_s: float = 6 * 3600.0) -> None:
        self._capacity = capacity
        self._idle_s = idle_s
        self._entries: OrderedDict[_Key, tuple[Assignment, Epoch]] = OrderedDict()  # least recently used first
        self._conversations: Counter[ConversationId] = Counter()

    async def place(self, proposal: Assignment, now: Epoch) -> Assignment:
        """Return the stored assignment, or store and return the proposal."""
        self._remove_idle(now)
        entry = self._entries.get((proposal.endpoint, proposal.conversation))
        return self._put(proposal if entry is None else entry[0], now)

    async def move(self, proposal: Assignment, now: Epoch) -> Assignment:
        """Replace the assignment and return it."""
        self._remove_idle(now)
        return self._put(proposal, now)

    async def restore(self, stored: Iterable[Assignment], now: Epoch) -> None:
        """Add assignments of a previous process, newest first, as the least recently used ones. Those beyond the capacity are dropped."""
        self._remove_idle(now)
        for assignment in islice(stored, self._capacity):
            key = (assignment.endpoint, assignment.conversation)
            if key not in self._entries and len(self._entries) < self._capacity:
                self._entries[key] = (assignment, now)
                self._entries.move_to_end(key, last=False)
                self._conversations[assignment.conversation] += 1

    async def known(self, conversation: ConversationId) -> bool:
        """Return whether the conversation has an assignment."""
        return conversation in self._conversations

    def _put(self, assignment: Assignment, now: Epoch) -> Assignment:
        key = (assignment.endpoint, assignment.conversation)
        if key not in self._entries:
            self._conversations[assignment.conversation] += 1
        self._entries[key] = (assignment, now)
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._remove_oldest()
        return assignment

    def _remove_idle(self, now: Epoch) -> None:
        while self._entries and next(iter(self._entries.values()))[1] + self._idle_s < now:
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        (_endpoint, conversation), _ = self._entries.popitem(last=False)
        self._conversations[conversation] -= 1
        if not self._conversations[conversation]:
            del self._conversations[conversation]
