"""Principals and their keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, insert, select, update

from core.access import Key, Principal, Role
from core.errors import NotFound
from core.ids import Epoch, KeyId, PrincipalId, new_id
from core.reasons import Reason
from registry.codec import plain, restore
from registry.database.connection import Connections
from registry.database.generation import bump
from registry.database.tables import keys, principals
from registry.database.upsert import insert_new


class AccessTable:
    """Implements `Access`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def principal(self, name: str, now: Epoch) -> Principal:
        """Return the principal of this name, made when it is not there."""
        query = select(principals).where(principals.c.name == name)
        with self._connections.write() as connection:
            insert_new(connection, principals, [{"id": new_id("prn"), "name": name, "created_at": now}])
            return restore(Principal, connection.execute(query).mappings().one())

    def add_key(self, key: Key) -> None:
        """Enter a key. NotFound when its principal is not there, Conflict when the key is."""
        row = plain(key)
        del row["principal_name"]
        with self._connections.write() as connection:
            if connection.execute(select(principals.c.id).where(principals.c.id == key.principal)).one_or_none() is None:
                raise NotFound(f"there is no principal {key.principal}", reason=Reason.NO_PRINCIPAL, hint="make the principal first")
            connection.execute(insert(keys).values(**row))
            bump(connection)

    def revoke(self, key: KeyId, now: Epoch) -> Key:
        """Revoke; the first time counts."""
        with self._connections.write() as connection:
            live = update(keys).where(keys.c.id == key, keys.c.revoked_at.is_(None))
            if connection.execute(live.values(revoked_at=now)).rowcount:
                bump(connection)
            row = connection.execute(keys_with_names().where(keys.c.id == key)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"there is no key {key}", reason=Reason.NO_KEY, hint="`seatrial keys list` shows them")
        return restore(Key, row)

    def keys(self, *, principal: PrincipalId | None = None, role: Role | None = None) -> tuple[Key, ...]:
        """Return keys, newest first."""
        query = keys_with_names().order_by(keys.c.created_at.desc(), keys.c.id.desc())
        if principal is not None:
            query = query.where(keys.c.principal == principal)
        if role is not None:
            query = query.where(keys.c.role == role)
        with self._connections.read() as connection:
            return tuple(restore(Key, row) for row in connection.execute(query).mappings())

    def by_secret(self, secret_sha256: str) -> Key | None:
        """Return the key with this digest, dead or alive, or None."""
        with self._connections.read() as connection:
            row = connection.execute(keys_with_names().where(keys.c.secret_sha256 == secret_sha256)).mappings().one_or_none()
        return None if row is None else restore(Key, row)


def keys_with_names() -> Select[Any]:
    """Return the query for keys with the names of their principals."""
    return select(keys, principals.c.name.label("principal_name")).join(principals, principals.c.id == keys.c.principal)
