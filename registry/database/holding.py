"""Who drives a row: the flow run that wrote itself down in it last."""

from __future__ import annotations

from typing import Protocol, TypeVar

from core.errors import Conflict


class Driven(Protocol):
    """A submission or a benchmark."""

    @property
    def id(self) -> str: ...  # noqa: D102 - the row's own

    @property
    def flow_run(self) -> str | None: ...  # noqa: D102 - the row's own


Row = TypeVar("Row", bound=Driven)


def expect_held(row: Row, held_by: str | None) -> Row:
    """Return the row. Raises Conflict when a flow run other than `held_by` drives it; None asks nothing."""
    if held_by is None or row.flow_run == held_by:
        return row
    raise Conflict(f"{row.id} is driven by flow run {row.flow_run} by now, not by {held_by}", hint="watch that run; this one is over")
