"""Routes of endpoints and their rollouts."""

from __future__ import annotations

import logging
from dataclasses import replace

from fastapi import APIRouter

from core.access import Caller
from core.endpoints import Endpoint, Rollout, RolloutState, Withdrawal
from core.errors import Conflict, NotFound, Transient
from core.ids import EndpointName, RolloutId, VersionId
from core.submissions import SubmissionRequest, endpoint_name
from core.versions import ModelRef
from lifecycle.rollouts.steps import withdraw
from serving.control.access import AnyCaller, Operator, Submitter
from serving.control.asks import IdPart, Limit, NamePart, NameQuery, SetPolicy
from serving.control.desk import Desk, TheDesk
from serving.control.errors import RESPONSES
from serving.control.submissions import enter, view
from serving.control.traffic import EndpointView, RollbackView, RolloutView

_LOG = logging.getLogger("seatrial.control")
_TRIES = 20
_ACTIVE = tuple(state for state in RolloutState if not state.ended)

routes = APIRouter(prefix="/v1", tags=["endpoints"], responses=RESPONSES)


@routes.get("/endpoints")
def find(desk: TheDesk, caller: AnyCaller) -> list[EndpointView]:
    """List the endpoints that the key may call, by name."""
    return [_view(desk, endpoint) for endpoint in desk.records.endpoints.list() if caller.may_call(endpoint.name)]


@routes.get("/endpoints/{name}")
def get(name: NamePart, desk: TheDesk, caller: AnyCaller) -> EndpointView:
    """Return one endpoint, its versions and their engines."""
    if not caller.may_call(EndpointName(name)):
        raise NotFound(f"there is no endpoint {name}", reason="unknown_endpoint", hint="`seatrial endpoints` lists those you may call")
    return _view(desk, desk.records.endpoints.get(endpoint_name(name)))


@routes.post("/endpoints/{name}/rollback")
def rollback(name: NamePart, desk: TheDesk, caller: Operator) -> RollbackView:
    """Take the candidate back; with no rollout on its way, submit the version that served before."""
    endpoint = desk.records.endpoints.get(endpoint_name(name))
    for _ in range(_TRIES):
        active = desk.records.rollouts.find(endpoint=endpoint.name, states=_ACTIVE, limit=1)
        if not active:
            return back_to_previous(desk, caller, endpoint, f"rollback-{endpoint.name}-{endpoint.stable}-{desk.clock.now():.0f}")
        changed = _turn_back(desk, caller, active[0])
        if changed is not None:
            return RollbackView(rollout=RolloutView.of(changed))
    raise Transient(f"the rollout of {name} keeps changing", retry_after_s=1.0, hint="ask again")


@routes.patch("/endpoints/{name}/policy")
def set_policy(name: NamePart, ask: SetPolicy, desk: TheDesk, caller: Operator) -> EndpointView:
    """Set what an endpoint promises: sampling defaults, best-of, what a regression does. What is not sent stays; gateways follow."""
    endpoint = desk.records.endpoints.get(endpoint_name(name))
    sent = {field: getattr(ask, field) for field in ask.model_fields_set}
    changed = desk.records.endpoints.set_policy(endpoint.name, replace(endpoint.policy, **sent))
    desk.audit(caller, "set policy", endpoint.name, **ask.model_dump(mode="json", exclude_unset=True))
    return _view(desk, changed)


@routes.delete("/endpoints/{name}")
def remove(name: NamePart, desk: TheDesk, caller: Operator) -> EndpointView:
    """Stop serving an endpoint: gateways answer 404, its engine ends unless another needs it. Usage, votes and history are kept."""
    was = desk.records.endpoints.get(endpoint_name(name))
    shown = _view(desk, desk.records.endpoints.remove(was.name, desk.clock.now()))
    desk.audit(caller, "remove endpoint", was.name, stable=was.stable)
    desk.reconcile_soon()
    return shown


@routes.get("/rollouts")
def find_rollouts(desk: TheDesk, _caller: Submitter, endpoint: NameQuery = None, limit: Limit = 100) -> list[RolloutView]:
    """List rollouts, newest first."""
    name = endpoint_name(endpoint) if endpoint else None
    return [RolloutView.of(rollout) for rollout in desk.records.rollouts.find(endpoint=name, limit=limit)]


@routes.get("/rollouts/{rollout_id}")
def get_rollout(rollout_id: IdPart, desk: TheDesk, _caller: Submitter) -> RolloutView:
    """Return one rollout with its verdict's numbers."""
    return RolloutView.of(desk.records.rollouts.get(RolloutId(rollout_id)))


def _turn_back(desk: Desk, caller: Caller, rollout: Rollout) -> Rollout | None:
    """Send an active rollout back; None when its driver was faster and it must be read again.

    Without an owner the next driver adopts the rollback and tells of it.
    """
    back = withdraw(rollout, f"rolled back by {caller.name}", Withdrawal.OPERATOR)
    if back is rollout:
        return rollout
    try:
        changed = desk.records.rollouts.store(replace(back, lease_owner="", lease_until=0.0))
    except Conflict:
        return None
    desk.audit(caller, "rollback", rollout.id, endpoint=rollout.endpoint, candidate=rollout.candidate)
    desk.reconcile_soon()
    return changed


def back_to_previous(desk: Desk, caller: Caller, endpoint: Endpoint, key: str) -> RollbackView:
    """Submit the version that served before; the same `key` again is the same submission. Conflict where there is none."""
    if endpoint.previous is None or endpoint.previous == endpoint.stable:
        raise Conflict(
            f"endpoint {endpoint.name} has no rollout on its way and no earlier version to go back to",
            reason="nothing_to_roll_back",
            hint=f"submit the model that should serve: seatrial submit MODEL --endpoint {endpoint.name}",
        )
    version = desk.records.versions.get(endpoint.previous)
    # A folder has no revisions: it is submitted as it stands, and its content decides which version it is.
    folder = version.source.startswith("/")
    model = ModelRef(version.source, None if folder else version.commit)
    request = SubmissionRequest(model, endpoint.name, key, "rollback")
    return RollbackView(submission=view(desk, caller, enter(desk, caller, request, "rollback")))


def _view(desk: Desk, endpoint: Endpoint) -> EndpointView:
    share = desk.records.rollouts.get(endpoint.rollout).share if endpoint.rollout else 0.0
    behind = dict.fromkeys(version for version in (endpoint.stable, endpoint.candidate) if version)
    return EndpointView.of(endpoint, share, tuple(desk.engines.state(VersionId(version)) for version in behind))
