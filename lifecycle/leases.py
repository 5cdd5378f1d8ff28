"""Who may write a row that a flow run drives. Submissions and benchmarks share these rules.

A driver is the process of a flow run. It claims the row until a time, renews that lease while it lives, and releases it at its end.
Its name is the fencing token: a driver that slept through its lease and lost the row can write nothing more to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from core.errors import Conflict
from core.ids import Epoch
from core.ports import Clock
from core.reasons import Reason

_LOOK_S = 0.5


class Driven(Protocol):
    """A submission or a benchmark."""

    @property
    def id(self) -> str: ...  # noqa: D102 - the row's own
    @property
    def flow_run(self) -> str | None: ...  # noqa: D102 - the row's own
    @property
    def driver(self) -> str | None: ...  # noqa: D102 - the row's own
    @property
    def lease_until(self) -> Epoch: ...  # noqa: D102 - the row's own


Row = TypeVar("Row", bound=Driven)


def held_by_another(row: Driven, driver: str | None, now: Epoch) -> bool:
    """Return whether a driver other than `driver` holds an unexpired lease on the row.

    A process of a release before schema 0009 writes no driver when it claims, as on a rolling upgrade: its flow run stands for it.
    """
    return row.lease_until > now and (row.driver or row.flow_run) not in {None, driver}


def expect_driver(row: Driven, driver: str | None, now: Epoch) -> None:
    """Raise Conflict unless `driver` drives the row.

    None stands for a writer outside a flow run, which may write only a row that no driver holds.
    """
    if driver is None:
        expect_free(row, now)
    elif row.driver != driver:
        what = f"{row.id} is driven by {row.driver} of flow run {row.flow_run} now, not by {driver}"
        if row.driver is None:
            what = f"{row.id} is no longer driven by {driver}, whose lease expired"
        raise Conflict(what, reason=Reason.DRIVEN_BY_ANOTHER, hint="watch that run; this one is over")


def expect_free(row: Driven, now: Epoch, *, for_driver: str | None = None) -> None:
    """Raise Conflict when a driver other than `for_driver` holds the row."""
    if held_by_another(row, for_driver, now):
        what = f"{row.id} is driven by flow run {row.flow_run} already"
        raise Conflict(what, reason=Reason.DRIVEN_BY_ANOTHER, hint="watch that run; this one is not needed")


def await_free(read: Callable[[], Row], driver: str, clock: Clock, limit_s: float) -> Row:
    """Return the row once no other driver holds it. Conflict after `limit_s`: a living driver renews its lease."""
    limit = clock.now() + limit_s
    while True:
        row = read()
        if not held_by_another(row, driver, clock.now()):
            return row
        if clock.now() > limit:
            expect_free(row, clock.now(), for_driver=driver)
        clock.wait(_LOOK_S)
