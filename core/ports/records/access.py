"""Principals and their keys."""

from __future__ import annotations

from typing import Protocol

from core.access import Key, Principal, Role
from core.ids import Epoch, KeyId, PrincipalId


class Access(Protocol):
    """Principals and their keys."""

    def principal(self, name: str, now: Epoch) -> Principal:
        """Return the principal of this name, made when it is not there."""
        ...

    def add_key(self, key: Key) -> None:
        """Store a key: its sha256, never its secret. Increments the routes' generation."""
        ...

    def revoke(self, key: KeyId, now: Epoch) -> Key:
        """Revoke a key and return it. Revoking it again changes nothing. NotFound."""
        ...

    def keys(self, *, principal: PrincipalId | None = None, role: Role | None = None) -> tuple[Key, ...]:
        """Return keys, newest first."""
        ...

    def by_secret(self, secret_sha256: str) -> Key | None:
        """Return the key with this digest, also an expired or revoked one, or None."""
        ...
