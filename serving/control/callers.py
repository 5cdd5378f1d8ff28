"""Keys and callers, as they go over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from core.access import Caller, Key, Role
from serving.control.wire import Text, View, maybe, moment


class KeyView(View):
    """A key as it is remembered: never its secret."""

    id: str
    name: Text
    role: Role
    endpoints: list[str] = Field(description="the endpoints it may call; empty means every one")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    note: Text

    @classmethod
    def of(cls, key: Key) -> KeyView:
        """Show a key."""
        return cls(**_key(key))


class NewKeyView(KeyView):
    """A key that was just made: the one time that its secret is shown."""

    secret: str

    @classmethod
    def with_secret(cls, key: Key, secret: str) -> NewKeyView:
        """Show a key and its secret."""
        return cls(**_key(key), secret=secret)


def _key(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.principal_name,
        "role": key.role,
        "endpoints": list(key.endpoints),
        "created_at": moment(key.created_at),
        "expires_at": maybe(key.expires_at),
        "revoked_at": maybe(key.revoked_at),
        "note": key.note,
    }


class CallerView(View):
    """Who this key is."""

    key: str
    name: Text
    role: Role
    endpoints: list[str]
    expires_at: datetime | None
    gateway: str = Field(description="where it sends prompts; OpenAI's API lies below /v1")

    @classmethod
    def of(cls, caller: Caller, gateway: str) -> CallerView:
        """Show a caller."""
        endpoints: list[str] = sorted(caller.endpoints)
        return cls(
            key=caller.key,
            name=caller.name,
            role=caller.role,
            endpoints=endpoints,
            expires_at=maybe(caller.expires_at),
            gateway=gateway,
        )
