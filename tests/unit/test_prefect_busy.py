"""Prefect's SQLite answers 503 in a busy moment, and nothing at all while it restarts: calls are repeated within a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from core.errors import Fault, Transient
from core.ports.clock import VirtualClock
from registry.flow_runs import PrefectRuns

Answer = Callable[[int], httpx.Response]


@contextmanager
def prefect(answer: Answer, clock: VirtualClock) -> Iterator[tuple[PrefectRuns, list[str]]]:
    """Calls of a Prefect whose n-th answer is `answer(n)`; the list holds every request."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        return answer(len(asked))

    runs = PrefectRuns("http://prefect/api", clock=clock)
    runs._http = httpx.Client(base_url="http://prefect/api/", transport=httpx.MockTransport(handle))
    yield runs, asked
    runs.close()


def busy_until(last: int, then: httpx.Response) -> Answer:
    return lambda number: then if number > last else httpx.Response(503)


def refused_until(last: int, then: httpx.Response) -> Answer:
    def answer(number: int) -> httpx.Response:
        if number <= last:
            raise httpx.ConnectError("connection refused")
        return then

    return answer


RUN = httpx.Response(200, json={"id": "run-1", "state": {"type": "RUNNING", "name": "Running"}, "start_time": "2026-01-01T00:00:00Z"})


@pytest.mark.parametrize("answer", [busy_until(3, RUN), refused_until(3, RUN)], ids=["503", "refused"])
def test_a_busy_moment_is_waited_out(answer: Answer) -> None:
    clock = VirtualClock()
    with prefect(answer, clock) as (runs, asked):
        state = runs.state("run-1")
    assert state is not None
    assert (state.type, len(asked)) == ("RUNNING", 4)


def test_a_study_is_started_although_prefect_was_busy() -> None:
    with prefect(busy_until(2, httpx.Response(200, json={"id": "one"})), VirtualClock()) as (runs, _asked):
        assert runs.start_study("st-1", {"benchmark": "bm-1"}) == "one"


def test_a_busy_prefect_is_given_up_within_the_limit() -> None:
    clock = VirtualClock()
    began = clock.monotonic()
    with prefect(lambda _number: httpx.Response(503), clock) as (runs, asked), pytest.raises(Transient, match="503"):
        runs.state("run-1")
    assert 5 < len(asked) < 50
    assert 4.0 <= clock.monotonic() - began <= 8.0


def test_what_prefect_refuses_is_not_repeated() -> None:
    with prefect(lambda _number: httpx.Response(400, text="no"), VirtualClock()) as (runs, asked), pytest.raises(Fault):
        runs.state("run-1")
    assert len(asked) == 1


def test_a_run_that_ended_without_a_process_never_began() -> None:
    crashed = {
        "id": "run-1",
        "state": {"type": "CRASHED", "name": "Crashed", "message": "no room", "timestamp": "2026-01-01T00:00:00Z"},
        "start_time": None,
    }
    with prefect(lambda _number: httpx.Response(200, json=[crashed]), VirtualClock()) as (runs, _asked):
        last = runs.last_ended()
    assert last is not None
    assert last.message == "no room"
    assert last.could_not_start(since=last.at - 1)
    assert not last.could_not_start(since=last.at + 1), "it was ended with an earlier runner"
