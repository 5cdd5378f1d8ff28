"""Endpoints and what they serve."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from core.endpoints import Endpoint, EndpointPolicy
from core.errors import NotFound
from core.ids import EndpointName, Epoch
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.generation import bump
from registry.database.tables import endpoints
from registry.database.upsert import insert_new

_OWN = ("name", "created_at", "stable", "previous", "candidate", "rollout")


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
            made = {"name": name, "created_at": now, **_columns(EndpointPolicy())}
            insert_new(connection, endpoints, [made])
            bump(connection)
            return _get(connection, name)

    def get(self, name: EndpointName) -> Endpoint:
        """Return the endpoint."""
        with self._connections.read() as connection:
            return _get(connection, name)

    def list(self) -> tuple[Endpoint, ...]:
        """Return all by name."""
        with self._connections.read() as connection:
            rows = connection.execute(select(endpoints)).mappings().all()
        return tuple(sorted((to_endpoint(row) for row in rows), key=lambda endpoint: endpoint.name))

    def set_policy(self, name: EndpointName, policy: EndpointPolicy) -> Endpoint:
        """Set what the endpoint promises."""
        policy.check()
        with self._connections.write() as connection:
            connection.execute(update(endpoints).where(endpoints.c.name == name).values(**_columns(policy)))
            changed = _get(connection, name)
            bump(connection)
            return changed


def to_endpoint(row: RowMapping) -> Endpoint:
    """Return the endpoint that a row holds."""
    policy = restore(EndpointPolicy, {**row["policy"], "keep_text_days": row["keep_text_days"]})
    return Endpoint(**{name: row[name] for name in _OWN}, policy=policy)


def _columns(policy: EndpointPolicy) -> dict[str, Any]:
    """Return the columns that hold a policy: fields that were added later lie in one JSON document."""
    document = plain(policy)
    return {"keep_text_days": document.pop("keep_text_days"), "policy": document}


def _row(connection: Connection, name: EndpointName) -> RowMapping | None:
    return connection.execute(select(endpoints).where(endpoints.c.name == name)).mappings().one_or_none()


def _get(connection: Connection, name: EndpointName) -> Endpoint:
    row = _row(connection, name)
    if row is None:
        raise NotFound(f"there is no endpoint {name}", reason="no_endpoint", hint="`seatrial endpoints` lists them")
    return to_endpoint(row)
