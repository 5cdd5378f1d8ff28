"""Keys: who may call. The secret is in the answer to its creation and nowhere else; only its digest is kept."""

from __future__ import annotations

from collections.abc import Iterable

from core.access import Actor, Key, Role, new_secret, secret_digest
from core.errors import Refused
from core.ids import EndpointName, KeyId
from core.ports import Clock, Records
from core.reasons import Reason
from lifecycle.audit import write_audit


def create_key(
    records: Records,
    clock: Clock,
    by: Actor,
    *,
    name: str,
    role: Role,
    endpoints: Iterable[EndpointName] = (),
    expires_in_s: float | None = None,
    note: str = "",
) -> tuple[Key, str]:
    """Create a key for the principal `name`, and return it with its secret. Refused without a name."""
    if not name.strip():
        raise Refused("a key needs the name of who will call with it", reason=Reason.NO_NAME, hint="give a person, team or application")
    now = clock.now()
    principal = records.access.principal(name.strip(), now)
    identity, secret = new_secret()
    key = Key(
        id=identity,
        principal=principal.id,
        principal_name=principal.name,
        role=role,
        endpoints=tuple(dict.fromkeys(endpoints)),
        secret_sha256=secret_digest(secret),
        created_at=now,
        expires_at=now + expires_in_s if expires_in_s else None,
        note=note,
    )
    records.access.add_key(key)
    write_audit(records, clock, by, "create key", key.id, principal=principal.name, role=role.value, endpoints=list(key.endpoints))
    return key, secret


def revoke_key(records: Records, clock: Clock, by: Actor, key: KeyId) -> Key:
    """Revoke a key. Gateways follow within seconds; revoking twice changes nothing. NotFound."""
    revoked = records.access.revoke(key, clock.now())
    write_audit(records, clock, by, "revoke key", revoked.id, principal=revoked.principal_name)
    return revoked
