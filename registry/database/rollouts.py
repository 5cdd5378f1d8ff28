"""Rollouts: one row each, changed by compare-and-set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, insert, select, update

from core.endpoints import OPEN_ROLLOUTS, Rollout, RolloutState
from core.errors import Conflict, NotFound, Stale
from core.ids import EndpointName, RolloutId
from core.ports.records import Cohorts
from core.reasons import Reason
from registry.codec import plain, restore
from registry.database.cohorts import read_cohorts
from registry.database.connection import Connections
from registry.database.endpoints import lock_endpoint
from registry.database.generation import bump
from registry.database.tables import endpoints, rollouts

_ENDS = [state for state in RolloutState if state.ended]


class RolloutsTable:
    """Implements `Rollouts`."""

    def __init__(self, connections: Connections, slow_ttft_s: float) -> None:
        self._connections = connections
        self._slow_ttft_s = slow_ttft_s

    def open(self, rollout: Rollout) -> Rollout:
        """Enter a rollout and make its candidate the endpoint's, or return the open one of the same submission."""
        with self._connections.write() as connection:
            lock_endpoint(connection, rollout.endpoint)
            standing = select(rollouts).where(rollouts.c.endpoint == rollout.endpoint, rollouts.c.state.in_(OPEN_ROLLOUTS))
            row = connection.execute(standing).mappings().one_or_none()
            if row is not None and row["submission"] == rollout.submission:
                return restore(Rollout, row)
            if row is not None:
                raise _taken(rollout.endpoint, row["submission"])
            stable = connection.execute(select(endpoints.c.stable).where(endpoints.c.name == rollout.endpoint)).scalar_one()
            if stable != rollout.stable:
                raise _served_changed(rollout, stable)
            connection.execute(insert(rollouts).values(**plain(rollout)))
            _set_endpoint(connection, rollout.endpoint, candidate=rollout.candidate, rollout=rollout.id)
            bump(connection)
            return rollout

    def get(self, rollout: RolloutId) -> Rollout:
        """Return it."""
        with self._connections.read() as connection:
            return _get(connection, rollout)

    def find(self, *, endpoint: EndpointName | None = None, states: Iterable[RolloutState] = (), limit: int = 100) -> tuple[Rollout, ...]:
        """Return those that match, newest first."""
        query = select(rollouts).order_by(rollouts.c.started_at.desc(), rollouts.c.id.desc()).limit(limit)
        if endpoint is not None:
            query = query.where(rollouts.c.endpoint == endpoint)
        if wanted := list(states):
            query = query.where(rollouts.c.state.in_(wanted))
        with self._connections.read() as connection:
            return tuple(restore(Rollout, row) for row in connection.execute(query).mappings())

    def store(self, rollout: Rollout) -> Rollout:
        """Store the row if its revision is still the one that was read, and what the endpoint serves with it."""
        values = plain(rollout) | {"revision": rollout.revision + 1}
        mine = update(rollouts).where(rollouts.c.id == rollout.id, rollouts.c.revision == rollout.revision, rollouts.c.state.not_in(_ENDS))
        with self._connections.write() as connection:
            lock_endpoint(connection, rollout.endpoint)
            if connection.execute(mine.values(**values)).rowcount != 1:
                raise _moved_on(_get(connection, rollout.id), rollout)
            if rollout.state.ended:
                _end(connection, rollout)
            bump(connection)
            return _get(connection, rollout.id)

    def cohorts(self, rollout: RolloutId, window_s: float) -> Cohorts:
        """Return what both versions did in the conversations that began during this rollout."""
        with self._connections.read() as connection:
            _get(connection, rollout)
            return read_cohorts(connection, rollout, self._slow_ttft_s, window_s)


def _end(connection: Connection, rollout: Rollout) -> None:
    served: dict[str, Any] = {"candidate": None, "rollout": None}
    if rollout.state is RolloutState.PROMOTED:
        stable = connection.execute(select(endpoints.c.stable).where(endpoints.c.name == rollout.endpoint)).scalar_one()
        served["stable"] = rollout.candidate
        if stable != rollout.candidate:  # the same weights once more: what was served before them stays the way back
            served["previous"] = stable
    _set_endpoint(connection, rollout.endpoint, **served)


def _set_endpoint(connection: Connection, name: EndpointName, **values: Any) -> None:
    connection.execute(update(endpoints).where(endpoints.c.name == name).values(**values))


def _get(connection: Connection, rollout: RolloutId) -> Rollout:
    row = connection.execute(select(rollouts).where(rollouts.c.id == rollout)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no rollout {rollout}", reason=Reason.NO_ROLLOUT, hint="`seatrial rollouts` lists them")
    return restore(Rollout, row)


def _moved_on(stored: Rollout, mine: Rollout) -> Stale:
    return Stale(
        f"rollout {mine.id} is at revision {stored.revision} ({stored.state}), not {mine.revision}",
        reason=Reason.ROLLOUT_MOVED_ON,
        hint="read it again, then decide",
    )


def _served_changed(rollout: Rollout, stable: str | None) -> Stale:
    return Stale(
        f"{rollout.endpoint} serves {_short(stable)}, expected {_short(rollout.stable)}",
        reason=Reason.ENDPOINT_MOVED_ON,
        hint="read the endpoint again, then decide",
    )


def _short(version: str | None) -> str:
    return version[:12] if version else "no version"


def _taken(endpoint: EndpointName, submission: str) -> Conflict:
    return Conflict(
        f"{endpoint} has an open rollout of {submission}",
        reason=Reason.ROLLOUT_OPEN,
        hint="wait for its end or cancel that submission",
    )
