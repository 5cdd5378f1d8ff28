"""Routes of keys: who may call."""

from __future__ import annotations

from fastapi import APIRouter

from core.access import Key, new_secret, secret_digest
from core.errors import Refused
from core.ids import KeyId
from core.submissions import endpoint_name
from serving.control.access import AnyCaller, Operator
from serving.control.asks import CreateKey, IdPart
from serving.control.callers import CallerView, KeyView, NewKeyView
from serving.control.desk import TheDesk
from serving.control.errors import RESPONSES

routes = APIRouter(prefix="/v1", tags=["keys"], responses=RESPONSES)


@routes.post("/keys", status_code=201)
def create(ask: CreateKey, desk: TheDesk, caller: Operator) -> NewKeyView:
    """Make a key. Its secret is in this answer and nowhere else: only its digest is kept."""
    if not ask.name.strip():
        raise Refused("a key needs the name of who will call with it", reason="no_name", hint="give a person, team or application")
    endpoints = tuple(dict.fromkeys(endpoint_name(name) for name in ask.endpoints))
    now = desk.clock.now()
    principal = desk.records.access.principal(ask.name.strip(), now)
    identity, secret = new_secret()
    key = Key(
        id=identity,
        principal=principal.id,
        principal_name=principal.name,
        role=ask.role,
        endpoints=endpoints,
        secret_sha256=secret_digest(secret),
        created_at=now,
        expires_at=now + ask.expires_in_s if ask.expires_in_s else None,
        note=ask.note,
    )
    desk.records.access.add_key(key)
    desk.audit(caller, "create key", key.id, principal=principal.name, role=ask.role.value, endpoints=list(endpoints))
    return NewKeyView.with_secret(key, secret)


@routes.get("/keys")
def find(desk: TheDesk, _caller: Operator) -> list[KeyView]:
    """List keys, newest first, without their secrets."""
    return [KeyView.of(key) for key in desk.records.access.keys()]  # noqa: SIM118 - a query, no dict


@routes.delete("/keys/{key_id}")
def revoke(key_id: IdPart, desk: TheDesk, caller: Operator) -> KeyView:
    """Revoke a key. Gateways follow within seconds; revoking twice changes nothing."""
    revoked = desk.records.access.revoke(KeyId(key_id), desk.clock.now())
    desk.audit(caller, "revoke key", revoked.id, principal=revoked.principal_name)
    return KeyView.of(revoked)


@routes.get("/whoami")
def whoami(desk: TheDesk, caller: AnyCaller) -> CallerView:
    """Say who the key is, and where the gateway is."""
    return CallerView.of(caller, desk.links.gateway_url)
