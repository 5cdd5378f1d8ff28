"""Routes of keys: who may call."""

from __future__ import annotations

from fastapi import APIRouter

from core.access import Key, new_secret, secret_digest
from core.errors import Refused
from core.ids import KeyId
from core.submissions import endpoint_name
from serving.control.dependencies import AnyCaller, Context, Operator
from serving.control.errors import RESPONSES
from serving.control.schemas.keys import CallerView, KeyView, NewKey, NewKeyView
from serving.control.schemas.parameters import IdPart

routes = APIRouter(prefix="/v1", tags=["keys"], responses=RESPONSES)


@routes.post("/keys", status_code=201)
def create(body: NewKey, context: Context, caller: Operator) -> NewKeyView:
    """Make a key. Its secret is in this answer and nowhere else: only its digest is kept."""
    if not body.name.strip():
        raise Refused("a key needs the name of who will call with it", reason="no_name", hint="give a person, team or application")
    endpoints = tuple(dict.fromkeys(endpoint_name(name) for name in body.endpoints))
    now = context.clock.now()
    principal = context.records.access.principal(body.name.strip(), now)
    identity, secret = new_secret()
    key = Key(
        id=identity,
        principal=principal.id,
        principal_name=principal.name,
        role=body.role,
        endpoints=endpoints,
        secret_sha256=secret_digest(secret),
        created_at=now,
        expires_at=now + body.expires_in_s if body.expires_in_s else None,
        note=body.note,
    )
    context.records.access.add_key(key)
    context.audit(caller, "create key", key.id, principal=principal.name, role=body.role.value, endpoints=list(endpoints))
    return NewKeyView.with_secret(key, secret)


@routes.get("/keys")
def find(context: Context, _caller: Operator) -> list[KeyView]:
    """List keys, newest first, without their secrets."""
    return [KeyView.of(key) for key in context.records.access.keys()]  # noqa: SIM118 - a query, no dict


@routes.delete("/keys/{key_id}")
def revoke(key_id: IdPart, context: Context, caller: Operator) -> KeyView:
    """Revoke a key. Gateways follow within seconds; revoking twice changes nothing."""
    revoked = context.records.access.revoke(KeyId(key_id), context.clock.now())
    context.audit(caller, "revoke key", revoked.id, principal=revoked.principal_name)
    return KeyView.of(revoked)


@routes.get("/whoami")
def whoami(context: Context, caller: AnyCaller) -> CallerView:
    """Say who the key is, and where the gateway is."""
    return CallerView.of(caller, context.links.gateway_url)
