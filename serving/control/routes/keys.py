"""Routes of keys: who may call."""

from __future__ import annotations

from fastapi import APIRouter

from core.ids import KeyId
from core.submissions import endpoint_name
from lifecycle.keys import create_key, revoke_key
from serving.control.dependencies import AnyCaller, Context, Operator
from serving.control.errors import RESPONSES
from serving.control.schemas.keys import CallerView, KeyView, NewKey, NewKeyView
from serving.control.schemas.parameters import IdPart

routes = APIRouter(prefix="/v1", tags=["keys"], responses=RESPONSES)


@routes.post("/keys", status_code=201)
def create(body: NewKey, context: Context, caller: Operator) -> NewKeyView:
    """Make a key. Its secret is in this answer and nowhere else: only its digest is kept."""
    key, secret = create_key(
        context.records,
        context.clock,
        caller.actor,
        name=body.name,
        role=body.role,
        endpoints=[endpoint_name(name) for name in body.endpoints],
        expires_in_s=body.expires_in_s,
        note=body.note,
    )
    return NewKeyView.with_secret(key, secret)


@routes.get("/keys")
def find(context: Context, _caller: Operator) -> list[KeyView]:
    """List keys, newest first, without their secrets."""
    return [KeyView.of(key) for key in context.records.access.keys()]  # noqa: SIM118 - a query, no dict


@routes.delete("/keys/{key_id}")
def revoke(key_id: IdPart, context: Context, caller: Operator) -> KeyView:
    """Revoke a key. Gateways follow within seconds; revoking twice changes nothing."""
    return KeyView.of(revoke_key(context.records, context.clock, caller.actor, KeyId(key_id)))


@routes.get("/whoami")
def whoami(context: Context, caller: AnyCaller) -> CallerView:
    """Say who the key is, and where the gateway is."""
    return CallerView.of(caller, context.links.gateway_url)
