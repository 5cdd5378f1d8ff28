"""Routes of endpoints: find, roll back, set the policy, remove."""

from __future__ import annotations

from fastapi import APIRouter

from core.endpoints import Endpoint, Rollout
from core.errors import NotFound
from core.ids import EndpointName, VersionId
from core.reasons import Reason
from core.submissions import endpoint_name
from lifecycle.endpoints import change_policy, remove_endpoint
from lifecycle.rollback import roll_back
from serving.control.context import ControlContext
from serving.control.dependencies import AnyCaller, Context, Operator
from serving.control.errors import RESPONSES
from serving.control.routes.submissions import submission_view
from serving.control.schemas.endpoints import EndpointView, PolicyChange, RollbackView
from serving.control.schemas.parameters import NamePart
from serving.control.schemas.rollouts import RolloutView

routes = APIRouter(prefix="/v1", tags=["endpoints"], responses=RESPONSES)


@routes.get("/endpoints")
def find(context: Context, caller: AnyCaller) -> list[EndpointView]:
    """List the endpoints that the key may call, by name."""
    return [_view(context, endpoint) for endpoint in context.records.endpoints.list() if caller.may_call(endpoint.name)]


@routes.get("/endpoints/{name}")
def get(name: NamePart, context: Context, caller: AnyCaller) -> EndpointView:
    """Return one endpoint, its versions and their engines."""
    if not caller.may_call(EndpointName(name)):
        raise NotFound(f"there is no endpoint {name}", reason=Reason.NO_ENDPOINT, hint="`seatrial endpoints` lists those that you may call")
    return _view(context, context.records.endpoints.get(endpoint_name(name)))


@routes.post("/endpoints/{name}/rollback")
def rollback(name: NamePart, context: Context, caller: Operator) -> RollbackView:
    """Take the candidate back; with no rollout on its way, submit the version that served before."""
    endpoint = context.records.endpoints.get(endpoint_name(name))
    done = roll_back(context.records, context.runs, context.clock, endpoint, caller.actor)
    if isinstance(done, Rollout):
        return RollbackView(rollout=RolloutView.of(done))
    return RollbackView(submission=submission_view(context, caller, done))


@routes.patch("/endpoints/{name}/policy")
def set_policy(name: NamePart, body: PolicyChange, context: Context, caller: Operator) -> EndpointView:
    """Set what an endpoint promises: sampling defaults, best-of, what a regression does. What is not sent stays; gateways follow."""
    sent = {field: getattr(body, field) for field in body.model_fields_set}
    return _view(context, change_policy(context.records, context.clock, caller.actor, endpoint_name(name), sent))


@routes.delete("/endpoints/{name}")
def remove(name: NamePart, context: Context, caller: Operator) -> EndpointView:
    """Stop serving an endpoint: gateways answer 404, its engine ends unless another needs it. Usage, votes and history are kept."""
    removed = remove_endpoint(context.records, context.clock, caller.actor, endpoint_name(name))
    context.reconcile_soon()
    return _view(context, removed)


def _view(context: ControlContext, endpoint: Endpoint) -> EndpointView:
    share = context.records.rollouts.get(endpoint.rollout).share if endpoint.rollout else 0.0
    behind = dict.fromkeys(version for version in (endpoint.stable, endpoint.candidate) if version)
    return EndpointView.of(endpoint, share, tuple(context.engines.state(VersionId(version)) for version in behind))
