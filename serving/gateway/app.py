"""The gateway as one ASGI application: which path does what."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from core.access import Caller, Role
from core.endpoints import Route, Snapshot
from core.errors import Fault, Transient
from core.ids import CompletionId, EndpointName, new_id
from core.ports import Assignments, Clock, Ledger, Routes
from serving.gateway.auth import authorise, header
from serving.gateway.feedback import give_feedback, parse_vote
from serving.gateway.metering import Meter
from serving.gateway.metrics import Metrics, short
from serving.gateway.placement import conversation_id, is_synthetic, place
from serving.gateway.proxy import BEST_OF, Relay
from serving.gateway.requests import ClientGone, Kind, conversation_word, parse_ask, read_body
from serving.gateway.responses import Answer, ASGIApp, Headers, Receive, Rejected, Scope, Send, json_answer, send_answer, unavailable
from serving.gateway.route_sync import Follower, Pace, Remembered
from serving.gateway.sampling import shaped
from serving.gateway.upstream import Upstream

_log = logging.getLogger(__name__)
_MAX_HEADERS = 32 * 1024
_LISTED = 50
_MODELS = "/v1/models"
_LOOPBACK = frozenset({"127.0.0.1", "::1"})

Handler = Callable[[Scope, Receive, Send, str], Awaitable[None]]


def gateway(
    routes: Routes,
    ledger: Ledger,
    assignments: Assignments,
    clock: Clock,
    *,
    name: str,
    remembered: Remembered = tuple,
    refresh_s: float = 0.5,
    heartbeat_s: float = 2.0,
    ship_s: float = 0.2,
    connect_s: float = 2.0,
    stall_s: float = 300.0,
    body_s: float = 30.0,
    hold_s: float = 0.0,
    reuse_s: float = 300.0,
) -> ASGIApp:
    """Return the gateway. Serve it with uvicorn (uvloop, httptools, `lifespan="on"`, one process per `name`).

    `remembered` returns the assignments that outlived the last process, newest first; it is called on a thread after the spool
    was shipped. `stall_s` is how long an engine may be silent within one answer, `body_s` how long a client may take to send one,
    `hold_s` how long a request waits for an engine that cannot be reached before it is answered with 503, `reuse_s` how old a
    connection to an engine may be to carry another request.
    """
    metrics = Metrics()
    upstream = Upstream(connect_s=connect_s, stall_s=stall_s, hold_s=hold_s, reuse_s=reuse_s)
    pace = Pace(refresh_s=refresh_s, heartbeat_s=heartbeat_s, ship_s=ship_s)
    follower = Follower(routes, ledger, assignments, clock, metrics=metrics, upstream=upstream, name=name, pace=pace, remembered=remembered)
    return Gateway(follower, ledger, assignments, clock, metrics=metrics, upstream=upstream, body_s=body_s)


class Gateway:
    """Paths to handlers, and errors to answers."""

    def __init__(
        self, follower: Follower, ledger: Ledger, assignments: Assignments, clock: Clock,
        *, metrics: Metrics, upstream: Upstream, body_s: float,
    ) -> None:  # fmt: skip
        self._follower = follower
        self._ledger = ledger
        self._assignments = assignments
        self._clock = clock
        self._metrics = metrics
        self._upstream = upstream
        self._body_s = body_s
        self._paths: dict[str, tuple[str, Handler]] = {
            Kind.CHAT.value: ("POST", partial(self._complete, Kind.CHAT)),
            Kind.TEXT.value: ("POST", partial(self._complete, Kind.TEXT)),
            "/v1/feedback": ("POST", self._feedback),
            _MODELS: ("GET", self._models),
            "/healthz": ("GET", self._health),
            "/metrics": ("GET", self._page),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._follower.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._follower.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_id("r")[2:]
        try:
            await self._handler(scope)(scope, receive, send, request_id)
        except ClientGone:
            return
        except Rejected as rejected:
            await self._refuse(rejected, send, request_id)
        except Transient as error:
            await self._refuse(unavailable(error.what, reason="database_away"), send, request_id)
        except Fault as error:
            _log.exception("request refused: nothing can be written down", extra={"request": request_id})
            await self._refuse(unavailable(error.what, reason="ledger_fault", retry_after_s=10), send, request_id)

    def _handler(self, scope: Scope) -> Handler:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _MAX_HEADERS:
            raise Rejected(431, f"the headers are larger than {_MAX_HEADERS} bytes", reason="headers_too_large")
        path = scope["path"]
        wanted = self._paths.get(path) or (("GET", self._model) if path.startswith(_MODELS + "/") else None)
        if wanted is None:
            raise Rejected(404, "there is nothing at this path", reason="unknown_url", hint="the paths are in docs/gateway")
        method, handler = wanted
        if scope["method"] != method:
            raise Rejected(405, f"{scope['method'][:16]} is not for this path", reason="method_not_allowed", hint=f"use {method}")
        return handler

    async def _refuse(self, rejected: Rejected, send: Send, request_id: str) -> None:
        self._metrics.rejected.labels(str(rejected.status)).inc()
        close: Headers = [(b"connection", b"close")] if rejected.status in (408, 431) else []
        await send_answer(send, rejected.answer(), [*_request_header(request_id), *close])

    def _known_caller(self, scope: Scope) -> tuple[Snapshot, Caller]:
        snapshot = self._follower.snapshot
        if snapshot is None:
            raise unavailable("the gateway has no routes yet", reason="starting", hint="the database may be away; try again in a moment")
        return snapshot, authorise(scope["headers"], snapshot, self._clock.now())

    async def _complete(self, kind: Kind, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        snapshot, caller = self._known_caller(scope)
        headers = scope["headers"]
        ask = parse_ask(kind, await read_body(receive, header(headers, b"content-length"), self._body_s))
        route = _allowed_route(snapshot, caller, ask.model)
        word = conversation_word(header(headers, b"x-seatrial-conversation"), ask)
        ask = shaped(ask, route.policy)
        synthetic = is_synthetic(caller, header(headers, b"x-seatrial-synthetic"))
        conversation = conversation_id(caller.principal, route.endpoint, word)
        placed = await place(self._assignments, route, conversation, self._clock.now(), synthetic=synthetic)
        completion = CompletionId(kind.id_prefix + request_id)
        meter = Meter(self._ledger, self._metrics, self._clock)
        meter.reserve(completion, placed, caller, ask)
        told = [
            *_request_header(request_id),
            (b"x-seatrial-conversation", word.encode()),
            (b"x-seatrial-version", short(placed.assignment.version).encode()),
            *([(b"x-seatrial-moved", b"1")] if placed.assignment.moved else []),
            *([(BEST_OF, str(ask.draws).encode())] if route.policy.best_of > 1 else []),
        ]
        relay = Relay(self._upstream, meter, send, told, {"id": completion, "model": ask.model})
        await relay.run(ask, placed.target, request_id, receive)

    async def _feedback(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        _, caller = self._known_caller(scope)
        vote = parse_vote(await read_body(receive, header(scope["headers"], b"content-length"), self._body_s))
        answer = await give_feedback(vote, caller, self._ledger, self._assignments, self._clock)
        self._metrics.spooled += 1
        await send_answer(send, answer, _request_header(request_id))

    async def _models(self, scope: Scope, _receive: Receive, send: Send, request_id: str) -> None:
        snapshot, caller = self._known_caller(scope)
        models = [_model_card(name) for name in _callable(snapshot, caller)]
        await send_answer(send, json_answer({"object": "list", "data": models}), _request_header(request_id))

    async def _model(self, scope: Scope, _receive: Receive, send: Send, request_id: str) -> None:
        snapshot, caller = self._known_caller(scope)
        route = _allowed_route(snapshot, caller, scope["path"].removeprefix(_MODELS + "/"))
        await send_answer(send, json_answer(_model_card(route.endpoint)), _request_header(request_id))

    async def _health(self, _scope: Scope, _receive: Receive, send: Send, request_id: str) -> None:
        snapshot = self._follower.snapshot
        if snapshot is None or not self._follower.alive:
            raise unavailable("the gateway does not follow any routes", reason="starting", hint="is the database there?")
        await send_answer(send, json_answer({"generation": snapshot.generation}), _request_header(request_id))

    async def _page(self, scope: Scope, _receive: Receive, send: Send, request_id: str) -> None:
        """Show the metrics to this machine and to operators: they name every endpoint."""
        local = (scope.get("client") or ("",))[0] in _LOOPBACK and header(scope["headers"], b"x-forwarded-for") is None
        if not local and self._known_caller(scope)[1].role is not Role.OPERATOR:
            raise Rejected(403, "metrics are for operators", reason="forbidden", hint="use an operator's key")
        if (snapshot := self._follower.snapshot) is not None:
            self._metrics.follow(snapshot, self._clock.now())
        page = Answer(200, self._metrics.page(), content_type=b"text/plain; version=0.0.4; charset=utf-8")
        await send_answer(send, page, _request_header(request_id))


def _request_header(request_id: str) -> Headers:
    return [(b"x-request-id", request_id.encode())]


def _callable(snapshot: Snapshot, caller: Caller) -> list[EndpointName]:
    return sorted(name for name in snapshot.routes if caller.may_call(name))


def _allowed_route(snapshot: Snapshot, caller: Caller, model: str) -> Route:
    """Return the route of a model. One that the key may not call looks exactly like one that is not there."""
    route = snapshot.routes.get(EndpointName(model))
    if route is not None and caller.may_call(route.endpoint):
        return route
    names = _callable(snapshot, caller)
    hint = f"this key may use: {', '.join(names[:_LISTED])}" if names else "there is no model for this key yet"
    raise Rejected(404, f"the model `{model[:64]}` does not exist", reason="model_not_found", param="model", hint=hint)


def _model_card(name: EndpointName) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "seatrial"}
