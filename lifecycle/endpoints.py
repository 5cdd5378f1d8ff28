"""Endpoints: the policy that they promise, and their removal. What they serve is decided by rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from core.access import Actor
from core.endpoints import Endpoint
from core.ids import EndpointName
from core.ports import Clock, Records
from lifecycle.audit import write_audit


def change_policy(records: Records, clock: Clock, by: Actor, name: EndpointName, changes: Mapping[str, Any]) -> Endpoint:
    """Change the fields of an endpoint's policy that `changes` has. Gateways follow. NotFound."""
    endpoint = records.endpoints.get(name)
    policy = replace(endpoint.policy, **changes)
    changed = records.endpoints.set_policy(name, policy)
    written = asdict(policy)
    write_audit(records, clock, by, "set policy", name, **{field: written[field] for field in changes})
    return changed


def remove_endpoint(records: Records, clock: Clock, by: Actor, name: EndpointName) -> Endpoint:
    """Stop serving an endpoint: gateways answer 404, its engine ends unless another needs it. Usage, votes and history stay. NotFound."""
    was = records.endpoints.get(name)
    removed = records.endpoints.remove(name, clock.now())
    write_audit(records, clock, by, "remove endpoint", name, stable=was.stable)
    return removed
