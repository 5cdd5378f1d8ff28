"""Endpoints and what they serve."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from core.endpoints import Endpoint, EndpointPolicy
from core.errors import Conflict, NotFound
from core.ids import EndpointName, Epoch
from core.reasons import Reason
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.generation import bump
from registry.database.submissions import ENDS
from registry.database.tables import endpoints, submissions
from registry.database.upsert import upsert

_OWN = ("name", "created_at", "stable", "previous", "candidate", "rollout")
_NOTHING: dict[str, Any] = dict.fromkeys(("stable", "previous", "candidate", "rollout"))
_gone = endpoints.c.removed_at.is_not(None)
standing = endpoints.c.removed_at.is_(None)
"""What an endpoint's row fulfils unless the endpoint was removed."""


class EndpointsTable:
    """Implements `Endpoints`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def ensure(self, name: EndpointName, now: Epoch) -> Endpoint:
        """Return the endpoint, made when it is not there."""
        with self._connections.read() as connection:
            if (row := _row(connection, name)) is not None:
                return to_endpoint(row)
        with self._connections.write() as connection:
            fresh = {"created_at": now, **_NOTHING, "removed_at": None, **_columns(EndpointPolicy())}
            upsert(connection, endpoints, [{"name": name, **fresh}], lambda _excluded: fresh, where=lambda _excluded: _gone)
            bump(connection)
            return _get(connection, name)

    def get(self, name: EndpointName) -> Endpoint:
        """Return the endpoint."""
        with self._connections.read() as connection:
            return _get(connection, name)

    def list(self) -> tuple[Endpoint, ...]:
        """Return all by name."""
        with self._connections.read() as connection:
            rows = connection.execute(select(endpoints).where(standing)).mappings().all()
        return tuple(sorted((to_endpoint(row) for row in rows), key=lambda endpoint: endpoint.name))

    def set_policy(self, name: EndpointName, policy: EndpointPolicy) -> Endpoint:
        """Set what the endpoint promises."""
        policy.check()
        with self._connections.write() as connection:
            connection.execute(update(endpoints).where(endpoints.c.name == name, standing).values(**_columns(policy)))
            changed = _get(connection, name)
            bump(connection)
            return changed

    def remove(self, name: EndpointName, now: Epoch) -> Endpoint:
        """Take the endpoint out of the routes; its row stays for what refers to it."""
        with self._connections.write() as connection:
            lock_endpoint(connection, name)
            was = _get(connection, name)
            under_way = select(submissions.c.id).where(submissions.c.endpoint == name, submissions.c.state.not_in(ENDS)).limit(1)
            if (submission := connection.execute(under_way).scalar_one_or_none()) is not None:
                raise _busy(name, submission, f"seatrial cancel {submission}")
            if was.rollout is not None:
                raise _busy(name, was.rollout, f"seatrial rollback {name}")
            connection.execute(update(endpoints).where(endpoints.c.name == name).values(**_NOTHING, removed_at=now))
            bump(connection)
            return was

    def removed(self, since: Epoch) -> tuple[EndpointName, ...]:
        """Return the names of those that were removed since then."""
        with self._connections.read() as connection:
            return tuple(sorted(connection.execute(select(endpoints.c.name).where(endpoints.c.removed_at >= since)).scalars()))


def lock_endpoint(connection: Connection, name: EndpointName) -> None:
    """Keep other writers off this endpoint until the transaction ends (SQLite has one writer anyway). NotFound."""
    if connection.execute(select(endpoints.c.name).where(endpoints.c.name == name, standing).with_for_update()).one_or_none() is None:
        raise _unknown(name)


def to_endpoint(row: RowMapping) -> Endpoint:
    """Return the endpoint that a row holds."""
    policy = restore(EndpointPolicy, {**row["policy"], "keep_text_days": row["keep_text_days"]})
    return Endpoint(**{name: row[name] for name in _OWN}, policy=policy)


def _busy(name: EndpointName, what: str, command: str) -> Conflict:
    hint = f"wait for its end, or stop it: {command}"
    return Conflict(f"endpoint {name} is about to change: {what} has not ended", reason=Reason.ENDPOINT_BUSY, hint=hint)


def _columns(policy: EndpointPolicy) -> dict[str, Any]:
    """Return the columns that hold a policy: fields that were added later lie in one JSON document."""
    document = plain(policy)
    return {"keep_text_days": document.pop("keep_text_days"), "policy": document}


def _row(connection: Connection, name: EndpointName) -> RowMapping | None:
    return connection.execute(select(endpoints).where(endpoints.c.name == name, standing)).mappings().one_or_none()


def _get(connection: Connection, name: EndpointName) -> Endpoint:
    row = _row(connection, name)
    if row is None:
        raise _unknown(name)
    return to_endpoint(row)


def _unknown(name: EndpointName) -> NotFound:
    return NotFound(f"there is no endpoint {name}", reason=Reason.NO_ENDPOINT, hint="`seatrial endpoints` lists those that you may call")
