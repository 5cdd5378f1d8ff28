"""Which version a conversation stays with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from core.conversations import Assignment
from core.ids import ConversationId, Epoch


class Assignments(Protocol):
    """Assignments of conversations, one call per request. Adapters: in process (one gateway); Redis later.

    An assigned conversation keeps its version. It is forgotten after `idle` seconds without a request, the oldest first when
    there are more than the adapter's capacity; it then counts as a new one.
    """

    async def place(self, proposal: Assignment, now: Epoch) -> Assignment:
        """Return the stored assignment of (endpoint, conversation), or store `proposal` and return it. Atomic."""
        ...

    async def move(self, proposal: Assignment, now: Epoch) -> Assignment:
        """Replace the assignment of a conversation whose version was withdrawn, marked `moved`, and return it."""
        ...

    async def restore(self, stored: Iterable[Assignment], now: Epoch) -> None:
        """Add the assignments that a previous process stored. Present assignments are kept."""
        ...

    async def known(self, conversation: ConversationId) -> bool:
        """Tell whether the conversation has an assignment."""
        ...
