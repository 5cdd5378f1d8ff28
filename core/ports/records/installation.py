"""The identity of the installation whose database this is."""

from __future__ import annotations

from typing import Protocol


class Installation(Protocol):
    """The identity of the installation whose database this is."""

    def id(self) -> str:
        """Return the identity: 32 hex digits, the same for the life of the database. A restored home gets another one."""
        ...
