"""The stages of a request for a completion, in their order: each is a function of one request.

A new policy is a function here and an entry in `completion_stages` (docs/how-to/add-a-gateway-stage.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from core.access import Caller
from core.conversations import Outcome
from core.endpoints import Route, Snapshot
from core.ids import CompletionId
from core.ports import Assignments, Clock, Ledger
from serving.gateway.auth import find_caller, header, permitted_route
from serving.gateway.metering import UsageRecorder
from serving.gateway.metrics import Metrics, short
from serving.gateway.placement import Placement, assign, conversation_id, is_synthetic
from serving.gateway.proxy import BEST_OF, CompletionProxy
from serving.gateway.requests import CompletionRequest, Kind, conversation_key, parse_completion_request, read_body
from serving.gateway.responses import Headers, Receive, Send
from serving.gateway.route_sync import RouteSync
from serving.gateway.sampling import apply_policy
from serving.gateway.upstream import Upstream


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request on its way through the stages. A stage reads the fields that earlier stages set, and sets its own."""

    id: str
    kind: Kind
    headers: Headers
    receive: Receive
    send: Send
    response_headers: Headers
    """The headers of the engine's answer to the client. Error responses of the gateway have only `X-Request-Id` of them."""
    snapshot: Snapshot = field(init=False)
    caller: Caller = field(init=False)
    request: CompletionRequest = field(init=False)
    route: Route = field(init=False)
    conversation_key: str = field(init=False)
    placement: Placement = field(init=False)
    completion: CompletionId = field(init=False)
    recorder: UsageRecorder = field(init=False)
    outcome: Outcome = field(init=False)
    status: int = field(init=False)
    at_end: ExitStack = field(default_factory=ExitStack, init=False)
    """What is left to do when the request ends, also by an exception or a cancellation."""


Stage = Callable[[RequestContext], Awaitable[None]]


def completion_stages(
    sync: RouteSync, ledger: Ledger, assignments: Assignments, clock: Clock, *, metrics: Metrics, upstream: Upstream, body_s: float
) -> tuple[Stage, ...]:
    """Return the stages in the order in which each request passes them. A stage that raises ends the request."""
    return (
        partial(authenticate, sync, clock),
        partial(read, body_s),
        authorise,
        identify_conversation,
        shape,
        partial(place, assignments, clock),
        partial(reserve, ledger, metrics, clock),
        describe,
        partial(proxy, upstream),
        settle,
    )


async def run_stages(stages: Iterable[Stage], context: RequestContext) -> None:
    """Let the request pass the stages. A reserved completion is settled once, whatever ends the request."""
    with context.at_end:
        for stage in stages:
            await stage(context)


async def authenticate(sync: RouteSync, clock: Clock, context: RequestContext) -> None:
    """Identify the caller. Rejected (401) without a valid key, (503) before the first snapshot."""
    context.snapshot = sync.current()
    context.caller = find_caller(context.headers, context.snapshot, clock.now())


async def read(body_s: float, context: RequestContext) -> None:
    """Read and parse the body. Rejected (400, 408, 413); ClientGone."""
    body = await read_body(context.receive, header(context.headers, b"content-length"), body_s)
    context.request = parse_completion_request(context.kind, body)


async def authorise(context: RequestContext) -> None:
    """Find the route of the endpoint. Rejected (404) unless it exists and the caller may call it."""
    context.route = permitted_route(context.snapshot, context.caller, context.request.model)


async def identify_conversation(context: RequestContext) -> None:
    """Set the client's key of the conversation, from the request as the client sent it. Rejected (400) for an invalid header."""
    context.conversation_key = conversation_key(header(context.headers, b"x-seatrial-conversation"), context.request)


async def shape(context: RequestContext) -> None:
    """Apply the endpoint's policy to the request."""
    context.request = apply_policy(context.request, context.route.policy)


async def place(assignments: Assignments, clock: Clock, context: RequestContext) -> None:
    """Find the version that answers, and assign one to a new conversation. Rejected (503) without a version."""
    synthetic = is_synthetic(context.caller, header(context.headers, b"x-seatrial-synthetic"))
    conversation = conversation_id(context.caller.principal, context.route.endpoint, context.conversation_key)
    context.placement = await assign(assignments, context.route, conversation, clock.now(), synthetic=synthetic)


async def reserve(ledger: Ledger, metrics: Metrics, clock: Clock, context: RequestContext) -> None:
    """Reserve the completion in the ledger. Fault when that fails. From here on, the completion is settled in every case."""
    context.completion = CompletionId(context.kind.id_prefix + context.id)
    context.recorder = UsageRecorder(ledger, metrics, clock)
    context.recorder.reserve(context.completion, context.placement, context.caller, context.request)
    context.at_end.enter_context(context.recorder)


async def describe(context: RequestContext) -> None:
    """Set the headers that describe the conversation and its version."""
    assignment = context.placement.assignment
    headers = context.response_headers
    headers.append((b"x-seatrial-conversation", context.conversation_key.encode()))
    headers.append((b"x-seatrial-version", short(assignment.version).encode()))
    if assignment.moved:
        headers.append((b"x-seatrial-moved", b"1"))
    if context.route.policy.best_of > 1:
        headers.append((BEST_OF, str(context.request.draws).encode()))


async def proxy(upstream: Upstream, context: RequestContext) -> None:
    """Forward the request to the engine and the answer to the client. Errors of the engine become responses and outcomes."""
    names = {"id": context.completion, "model": context.request.model}
    forwarding = CompletionProxy(upstream, context.recorder, context.send, context.response_headers, names)
    context.outcome, context.status = await forwarding.run(context.request, context.placement.target, context.id, context.receive)


async def settle(context: RequestContext) -> None:
    """Settle the completion in the ledger."""
    context.recorder.settle(context.outcome, context.status)
