"""Who calls, with which key, and what it may do."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

from core.ids import EndpointName, Epoch, KeyId, PrincipalId, new_id

KEY_PREFIX = "st-"


class Role(StrEnum):
    """What a key is for. An operator may all; a submitter submits and sees its own; an application calls endpoints."""

    APPLICATION = "application"
    SUBMITTER = "submitter"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: a person, a team or an application."""

    id: PrincipalId
    name: str
    created_at: Epoch


@dataclass(frozen=True, slots=True)
class Key:
    """A bearer key as it is remembered: never the secret, only its sha256 (the secret has 160 random bits, so no salt is needed)."""

    id: KeyId
    principal: PrincipalId
    principal_name: str
    role: Role
    endpoints: tuple[EndpointName, ...]
    """The endpoints it may call; empty means every one."""
    secret_sha256: str
    created_at: Epoch
    expires_at: Epoch | None = None
    revoked_at: Epoch | None = None
    note: str = ""

    def live(self, now: Epoch) -> bool:
        """Whether it still opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something: the principal to which the result belongs, and the name in the audit trail."""

    principal: PrincipalId
    name: str
    audit_name: str


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated sender of a request, as a gateway and the control API see it."""

    key: KeyId
    principal: PrincipalId
    name: str
    role: Role
    endpoints: frozenset[EndpointName] = frozenset()
    expires_at: Epoch | None = None

    @property
    def actor(self) -> Actor:
        """The caller as the author of a change; the audit trail has the name and the key."""
        return Actor(self.principal, self.name, f"{self.name} ({self.key})")

    @property
    def is_operator(self) -> bool:
        """Whether it sees everybody's things."""
        return self.role is Role.OPERATOR

    def may_call(self, endpoint: EndpointName) -> bool:
        """Whether it may send prompts to this endpoint."""
        return not self.endpoints or endpoint in self.endpoints


def new_secret() -> tuple[KeyId, str]:
    """Return (key id, bearer secret). The secret is shown once; it begins with `st-` so that scanners can find a leaked one."""
    return KeyId(new_id("key")), KEY_PREFIX + secrets.token_urlsafe(20)


def secret_digest(secret: str) -> str:
    """Return the hex sha256 by which a secret is looked up."""
    return hashlib.sha256(secret.encode()).hexdigest()
