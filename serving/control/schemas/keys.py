"""Keys and callers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from core.access import Caller, Key, Role
from serving.control.plain_text import plain
from serving.control.schemas.base import RequestBody, Text, View, maybe, moment

_TEN_YEARS_S = 10 * 366 * 86_400


class NewKey(RequestBody):
    """Make a key for somebody."""

    name: Annotated[str, Field(max_length=200), AfterValidator(plain), Field(min_length=1, description="who will call with it")]
    role: Role
    endpoints: list[str] = Field(default=[], max_length=100, description="the endpoints it may call; empty: every one")
    expires_in_s: Annotated[float, Field(gt=0, le=_TEN_YEARS_S, allow_inf_nan=False)] | None = None
    note: Annotated[str, Field(max_length=2000), AfterValidator(plain)] = ""


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
