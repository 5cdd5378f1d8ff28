"""The gateway as an ASGI application: paths and their handlers, and errors and their responses."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from core.access import Caller, Role
from core.endpoints import Snapshot
from core.errors import Fault, Transient
from core.ids import EndpointName, new_id
from core.ports import Assignments, Clock, Ledger, Routes
from core.reasons import Reason
from serving.gateway.auth import find_caller, header, permitted_endpoints, permitted_route
from serving.gateway.feedback import parse_vote, store_feedback
from serving.gateway.metrics import Metrics
from serving.gateway.requests import ClientGone, Kind, read_body
from serving.gateway.responses import ASGIApp, Headers, Receive, Rejected, Response, Scope, Send, json_response, send_response, unavailable
from serving.gateway.route_sync import Intervals, RouteSync, StoredAssignments
from serving.gateway.stages import RequestContext, Stage, completion_stages, run_stages
from serving.gateway.upstream import Upstream

_log = logging.getLogger(__name__)
_MAX_HEADERS = 32 * 1024
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
    stored_assignments: StoredAssignments = tuple,
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

    `stored_assignments` returns the assignments of the previous process, newest first. It is called once, on a thread, after the
    spool was shipped. `stall_s` is the longest pause within an engine's answer, `body_s` the longest time in which a client may send
    its body, `hold_s` the time for which failed connections to an engine are retried before the response is 503, and `reuse_s` the
    age at which connections to engines are no longer reused.
    """
    metrics = Metrics()
    upstream = Upstream(connect_s=connect_s, stall_s=stall_s, hold_s=hold_s, reuse_s=reuse_s)
    intervals = Intervals(refresh_s=refresh_s, heartbeat_s=heartbeat_s, ship_s=ship_s)
    sync = RouteSync(
        routes, ledger, assignments, clock,
        metrics=metrics, upstream=upstream, name=name, intervals=intervals, stored_assignments=stored_assignments,
    )  # fmt: skip
    stages = completion_stages(sync, ledger, assignments, clock, metrics=metrics, upstream=upstream, body_s=body_s)
    return Gateway(stages, sync, ledger, assignments, clock, metrics=metrics, body_s=body_s)


class Gateway:
    """Maps paths to handlers, and errors to responses."""

    def __init__(
        self, stages: tuple[Stage, ...], sync: RouteSync, ledger: Ledger, assignments: Assignments, clock: Clock,
        *, metrics: Metrics, body_s: float,
    ) -> None:  # fmt: skip
        self._stages = stages
        self._sync = sync
        self._ledger = ledger
        self._assignments = assignments
        self._clock = clock
        self._metrics = metrics
        self._body_s = body_s
        self._paths: dict[str, tuple[str, Handler]] = {
            Kind.CHAT.value: ("POST", partial(self._complete, Kind.CHAT)),
            Kind.TEXT.value: ("POST", partial(self._complete, Kind.TEXT)),
            "/v1/feedback": ("POST", self._feedback),
            _MODELS: ("GET", self._models),
            "/healthz": ("GET", self._health),
            "/metrics": ("GET", self._metrics_page),
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
        await self._sync.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._sync.stop()
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
            await self._refuse(unavailable(error.what, reason=Reason.DATABASE_AWAY), send, request_id)
        except Fault as error:
            _log.exception("request refused: the ledger failed", extra={"request": request_id})
            await self._refuse(unavailable(error.what, reason=Reason.LEDGER_FAULT, retry_after_s=10), send, request_id)

    def _handler(self, scope: Scope) -> Handler:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _MAX_HEADERS:
            raise Rejected(431, f"the headers are larger than {_MAX_HEADERS} bytes", reason=Reason.HEADERS_TOO_LARGE)
        path = scope["path"]
        found = self._paths.get(path) or (("GET", self._model) if path.startswith(_MODELS + "/") else None)
        if found is None:
            raise Rejected(404, "there is nothing at this path", reason=Reason.UNKNOWN_URL, hint="the paths are in docs/gateway")
        method, handler = found
        if scope["method"] != method:
            raise Rejected(405, f"{scope['method'][:16]} is not for this path", reason=Reason.METHOD_NOT_ALLOWED, hint=f"use {method}")
        return handler

    async def _refuse(self, rejected: Rejected, send: Send, request_id: str) -> None:
        self._metrics.rejected.labels(str(rejected.status)).inc()
        close: Headers = [(b"connection", b"close")] if rejected.status in (408, 431) else []
        await send_response(send, rejected.response(), [*_request_header(request_id), *close])

    def _caller(self, scope: Scope) -> tuple[Snapshot, Caller]:
        snapshot = self._sync.current()
        return snapshot, find_caller(scope["headers"], snapshot, self._clock.now())

    async def _complete(self, kind: Kind, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        await run_stages(self._stages, RequestContext(request_id, kind, scope["headers"], receive, send, _request_header(request_id)))

    async def _feedback(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        _, caller = self._caller(scope)
        vote = parse_vote(await read_body(receive, header(scope["headers"], b"content-length"), self._body_s))
        response = await store_feedback(vote, caller, self._ledger, self._assignments, self._clock)
        self._metrics.spooled += 1
        await send_response(send, response, _request_header(request_id))

    async def _models(self, scope: Scope, _receive: Receive, send: Send, request_id: str) -> None:
        snapshot, caller = self._caller(scope)
        models = [_model_card(name) for name in permitted_endpoints(snapshot, caller)]
        await send_response(send, json_response({"object": "list", "data": models}), _request_header(request_id))

    async def _model(self, scope: Scope, _receive: Receive, send: Send, request_id: str) -> None:
        snapshot, caller = self._caller(scope)
        route = permitted_route(snapshot, caller, scope["path"].removeprefix(_MODELS + "/"))
        await send_response(send, json_response(_model_card(route.endpoint)), _request_header(request_id))

    async def _health(self, _scope: Scope, _receive: Receive, send: Send, request_id: str) -> None:
        snapshot = self._sync.snapshot
        if snapshot is None or not self._sync.alive:
            raise unavailable("the gateway does not follow any routes", reason=Reason.STARTING, hint="is the database there?")
        await send_response(send, json_response({"generation": snapshot.generation}), _request_header(request_id))

    async def _metrics_page(self, scope: Scope, _receive: Receive, send: Send, request_id: str) -> None:
        """Return the metrics to clients on this machine and to operators only: the labels contain every endpoint's name."""
        local = (scope.get("client") or ("",))[0] in _LOOPBACK and header(scope["headers"], b"x-forwarded-for") is None
        if not local and self._caller(scope)[1].role is not Role.OPERATOR:
            raise Rejected(403, "metrics are for operators", reason=Reason.FORBIDDEN, hint="use an operator's key")
        if (snapshot := self._sync.snapshot) is not None:
            self._metrics.show_routes(snapshot, self._clock.now())
        page = Response(200, self._metrics.page(), content_type=b"text/plain; version=0.0.4; charset=utf-8")
        await send_response(send, page, _request_header(request_id))


def _request_header(request_id: str) -> Headers:
    return [(b"x-request-id", request_id.encode())]


def _model_card(name: EndpointName) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "seatrial"}
