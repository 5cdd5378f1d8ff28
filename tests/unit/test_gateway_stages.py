"""The list of stages: its order, and a stage that is added to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.conversations import Outcome
from core.ports.clock import SystemClock
from core.reasons import Reason
from serving.gateway.assignments import InProcessAssignments
from serving.gateway.metrics import Metrics
from serving.gateway.requests import Kind
from serving.gateway.responses import Rejected
from serving.gateway.route_sync import Intervals, RouteSync
from serving.gateway.stages import RequestContext, Stage, completion_stages, run_stages
from serving.gateway.upstream import Upstream
from tests.equipment.gateway_doubles import HARBOUR, FixedRoutes, MemoryLedger, route, until
from tests.equipment.gateway_engine import Engine
from tests.equipment.gateway_env import CALLERS, KEY

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/add-a-gateway-stage.md"
BODY = b'{"model":"harbour","messages":[{"role":"user","content":"hi"}],"max_tokens":9000}'


class Pipeline:
    """The stages with doubles of their ports. The engine of the route is unavailable unless its address is given."""

    def __init__(self, address: str = "") -> None:
        self.ledger, self.assignments, self.metrics, self.upstream = MemoryLedger(), InProcessAssignments(), Metrics(), Upstream()
        clock = SystemClock()
        routes = FixedRoutes(CALLERS, route(address))
        self.sync = RouteSync(
            routes, self.ledger, self.assignments, clock,
            metrics=self.metrics, upstream=self.upstream, name="gw", intervals=Intervals(), stored_assignments=tuple,
        )  # fmt: skip
        self.sync.snapshot = routes.snapshot
        self.stages = completion_stages(
            self.sync, self.ledger, self.assignments, clock, metrics=self.metrics, upstream=self.upstream, body_s=1.0
        )

    def names(self) -> list[str]:
        return [name_of(stage) for stage in self.stages]

    async def run(self, stages: tuple[Stage, ...], sent: list[Any], body: bytes = BODY) -> RequestContext:
        bodies = [body]

        async def receive() -> dict[str, Any]:
            if not bodies:
                await asyncio.Event().wait()  # the client stays connected
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {KEY}".encode())]
        context = RequestContext("1", Kind.CHAT, headers, receive, send, [(b"x-request-id", b"1")])
        await run_stages(stages, context)
        return context

    def with_stage(self, name: str, other: Stage) -> tuple[Stage, ...]:
        """Return the stages with another one in the place of the one of this name."""
        return tuple(other if name_of(stage) == name else stage for stage in self.stages)

    def ends(self) -> list[tuple[Outcome, int]]:
        return [(completion.outcome, completion.status) for completion in self.ledger.settled.values()]

    def in_flight(self) -> float:
        return self._sum("seatrial_in_flight")

    def completed(self) -> float:
        return self._sum("seatrial_requests_total")

    def _sum(self, metric: str) -> float:
        lines = self.metrics.page().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric))


def name_of(stage: Callable[..., Awaitable[None]]) -> str:
    function: Any = stage.func if isinstance(stage, partial) else stage
    return str(function.__name__)


async def limit(most_tokens: int, context: RequestContext) -> None:
    """The example of the how-to page."""
    if context.request.document.get("max_tokens", 0) > most_tokens:
        raise Rejected(400, f"`max_tokens` exceeds {most_tokens}", reason=Reason.INVALID_VALUE, param="max_tokens")


def test_the_how_to_page_lists_the_stages_in_their_order() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == Pipeline().names()


def test_nothing_refuses_a_request_after_its_reservation() -> None:
    names = Pipeline().names()
    assert names[names.index("reserve") :] == ["reserve", "describe", "proxy", "settle"]


async def test_a_request_is_settled_once_with_the_status_that_the_client_got() -> None:
    pipeline = Pipeline()
    sent: list[Any] = []
    context = await pipeline.run(pipeline.stages, sent)
    assert (sent[0]["status"], context.route.endpoint) == (503, HARBOUR)
    assert [completion.status for completion in pipeline.ledger.settled.values()] == [503]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (asyncio.CancelledError(), (Outcome.CLIENT_GONE, 499)),
        (RuntimeError("a defect"), (Outcome.ENGINE_ERROR, 500)),
    ],
)
@pytest.mark.parametrize("stage", ["describe", "proxy"])
async def test_an_exception_after_the_reservation_settles_the_completion_once(
    stage: str, error: BaseException, end: tuple[Outcome, int]
) -> None:
    async def failing(_context: RequestContext) -> None:
        raise error

    pipeline = Pipeline()
    with pytest.raises(type(error)):
        await pipeline.run(pipeline.with_stage(stage, failing), [])
    assert (pipeline.ends(), pipeline.in_flight(), pipeline.completed()) == ([end], 0, 1)


async def test_an_exception_in_settle_settles_no_second_time() -> None:
    async def settle_and_fail(context: RequestContext) -> None:
        context.recorder.settle(Outcome.OK, 200)
        raise RuntimeError("a defect")

    pipeline = Pipeline()
    with pytest.raises(RuntimeError):
        await pipeline.run(pipeline.with_stage("settle", settle_and_fail), [])
    assert (pipeline.ends(), pipeline.in_flight(), pipeline.completed()) == ([(Outcome.OK, 200)], 0, 1)


async def test_a_stream_that_is_cancelled_at_shutdown_is_settled_and_leaves_the_engine() -> None:
    engine = Engine()
    pipeline = Pipeline(engine.address)
    sent: list[Any] = []
    body = b'{"model":"harbour","messages":[{"role":"user","content":"hang"}],"stream":true}'
    request = asyncio.ensure_future(pipeline.run(pipeline.stages, sent, body))
    try:
        await asyncio.to_thread(until, lambda: sent)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        left = await asyncio.to_thread(engine.gone.wait, 5)
    finally:
        engine.close()
    assert (pipeline.ends(), pipeline.in_flight(), left) == ([(Outcome.CLIENT_GONE, 499)], 0, True)


@pytest.mark.parametrize(("most_tokens", "refused"), [(8999, True), (9000, False)])
async def test_a_stage_before_place_refuses_without_an_assignment_or_a_reservation(most_tokens: int, refused: bool) -> None:
    pipeline = Pipeline()
    at = pipeline.names().index("place")
    added: Stage = partial(limit, most_tokens)
    stages = (*pipeline.stages[:at], added, *pipeline.stages[at:])
    if refused:
        with pytest.raises(Rejected, match="max_tokens"):
            await pipeline.run(stages, [])
    else:
        await pipeline.run(stages, [])
    assert len(pipeline.ledger.reserved) == (0 if refused else 1)
    assert bool(pipeline.assignments._entries) is not refused
