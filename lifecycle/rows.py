"""Changing a row by compare-and-set on its revision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from core.errors import Stale
from core.ids import Epoch

Row = TypeVar("Row")
Key_contra = TypeVar("Key_contra", contravariant=True)


class Repository(Protocol[Key_contra, Row]):
    """Rows that carry a revision. See `Submissions.store` and `Benchmarks.store`."""

    def get(self, row: Key_contra, /) -> Row: ...  # noqa: D102 - the port says it
    def store(self, row: Row, now: Epoch, /) -> Row: ...  # noqa: D102 - the port says it


def update(rows: Repository[Key_contra, Row], row: Key_contra, now: Epoch, decide: Callable[[Row], Row]) -> Row:
    """Read the row, decide, store it; again when another writer was faster. Return the row as it is then.

    `decide` gets the row as it is stored and returns the row that should replace it, the same one for no change. It may be called
    several times and may raise. Stale when the row cannot be changed so whatever its revision: its end state would be left.
    """
    lost = None
    while True:  # each turn lost means that another writer has made progress
        found = rows.get(row)
        if lost is not None and found == lost[0]:
            raise lost[1]
        wanted = decide(found)
        if wanted == found:
            return found
        try:
            return rows.store(wanted, now)
        except Stale as error:
            lost = found, error
