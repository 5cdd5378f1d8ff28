"""`seatrial up` and `seatrial doctor` report within 30 s why no flow run can start, and report nothing while runs start."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.flow_runs import BENCHMARK, DEPLOY, STUDY
from core.ports.clock import VirtualClock
from core.services import RUNNER_BEAT_S, RunnerBeat
from core.settings import Settings, read_settings
from infra.findings import Finding
from infra.local import commands, doctor, runs_watch
from infra.local.earlier_stack import Left
from infra.local.runs_watch import CAN_START, Trouble, watch
from infra.local.stack import at_ports
from registry.database import Database, migrate, open_database

REPORTED_WITHIN_S = 30.0
STEP_S = 0.5
SLOTS = 10


class PrefectDouble(HTTPServer):
    """The answers of Prefect's REST API that the watch reads; `status` other than 200 is the answer to everything."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.polled: float | None = None
        self.last: dict[str, Any] | None = None
        self.limits: dict[str, dict[str, Any]] = {}
        self.missing: set[str] = set()

    def answer(self, path: str) -> Any:
        names = [name for name in (DEPLOY, BENCHMARK, STUDY) if name not in self.missing]
        return {
            "/api/flows/filter": [{"id": name.partition("/")[0], "name": name.partition("/")[0]} for name in names],
            "/api/deployments/filter": [self._deployment(name) for name in names],
            "/api/flow_runs/filter": [self.last] if self.last else [],
        }[path]

    def _deployment(self, full_name: str) -> dict[str, Any]:
        flow, _, name = full_name.partition("/")
        return {
            "name": name,
            "flow_id": flow,
            "last_polled": None if self.polled is None else _shown(self.polled),
            "global_concurrency_limit": self.limits.get(full_name),
            "work_pool_name": None,
            "work_queue_id": None,
        }


class _Handler(BaseHTTPRequestHandler):
    server: PrefectDouble

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(self.server.answer(self.path)).encode() if self.server.status == 200 else b"busy"
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


@dataclass
class World:
    """A stack in virtual time: a runner that leaves heartbeats and asks Prefect for work, until something breaks."""

    settings: Settings
    ports: Mapping[str, int]
    records: Database
    prefect: PrefectDouble
    clock: VirtualClock = field(default_factory=VirtualClock)
    beats: bool = True
    polls: bool = True
    said: list[tuple[float, str]] = field(default_factory=list)
    later: list[tuple[float, Callable[[World], None]]] = field(default_factory=list)
    """What happens at which time."""

    def __post_init__(self) -> None:
        self.began = self.clock.now()
        self.prefect.polled = self.began

    def pass_time(self, seconds: float) -> None:
        until = self.clock.now() + seconds
        while self.clock.now() < until:
            self.clock.wait(min(STEP_S, until - self.clock.now()))
            for event in [event for event in self.later if event[0] <= self.clock.now()]:
                self.later.remove(event)
                event[1](self)
            if self.polls:
                self.prefect.polled = self.clock.now()
            if self.beats and (self.clock.now() - self.began) % RUNNER_BEAT_S < STEP_S:
                self.records.runners.beat(RunnerBeat("here", 17, self.began, self.clock.now(), SLOTS, full=False))

    def happens(self, in_s: float, event: Callable[[World], None]) -> float:
        """Let something happen later and return its time."""
        self.later.append((self.clock.now() + in_s, event))
        return self.clock.now() + in_s

    def watched(self, seconds: float) -> list[str]:
        """Let `up` watch for so many seconds and return what it reports."""
        watch(self.settings, _Until(self, self.clock.now() + seconds), self._say, self.clock)
        return [what for _at, what in self.said]

    def _say(self, what: str) -> None:
        self.said.append((self.clock.now(), what))

    def examined(self) -> Finding:
        """Return what `doctor` reports now."""
        return doctor._runs(self.settings, Left(None, {}, self.ports), self.clock)


@dataclass
class _Until:
    """Waiting for the end of the watch lets virtual time pass."""

    world: World
    end: float

    def wait(self, timeout: float) -> bool:
        self.world.pass_time(min(timeout, max(0.0, self.end - self.world.clock.now())))
        return self.world.clock.now() >= self.end


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    url = f"sqlite:///{tmp_path / 'records.db'}"
    migrate(url)
    prefect = PrefectDouble()
    ports = {"prefect": prefect.server_port, "mlflow": 1, "control": 1, "gateway": 1}
    settings = at_ports(read_settings({"HOME": str(tmp_path), "SEATRIAL_DATABASE_URL": url}, home=tmp_path), ports)
    thread = threading.Thread(target=prefect.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    with open_database(url) as records:
        yield World(settings, ports, records, prefect)
    prefect.shutdown()
    prefect.server_close()
    thread.join()


def a_run_crashes_at_its_start(world: World) -> None:
    state = {"type": "CRASHED", "name": "Crashed", "message": "[Errno 13] Permission denied", "timestamp": _shown(world.clock.now())}
    world.prefect.last = {"state": state, "start_time": None}


def the_runner_ends(world: World) -> None:
    world.beats = world.polls = False


def the_runner_stops_asking(world: World) -> None:
    world.polls = False


def somebody_sets_the_limit_to_0(world: World) -> None:
    world.prefect.limits[DEPLOY] = {"limit": 0, "active": True}


def somebody_deactivates_the_limit(world: World) -> None:
    world.prefect.limits[BENCHMARK] = {"limit": 4, "active": False}


def somebody_deletes_the_deployment(world: World) -> None:
    world.prefect.missing.add(STUDY)


def prefect_stops_answering(world: World) -> None:
    world.prefect.status = 503


def prefect_answers(world: World) -> None:
    world.prefect.status = 200


def somebody_raises_the_limit(world: World) -> None:
    world.prefect.limits[DEPLOY] = {"limit": 4, "active": True}


BREAKS = [
    (a_run_crashes_at_its_start, "Permission denied"),
    (the_runner_ends, "the flow runner (process 17) has left no heartbeat for "),
    (the_runner_stops_asking, "the flow runner (process 17) has not asked Prefect for runs of deploy-model/submit"),
    (somebody_sets_the_limit_to_0, "the concurrency limit of the deployment deploy-model/submit is 0"),
    (somebody_deactivates_the_limit, "the concurrency limit of the deployment benchmark/on-demand is inactive"),
    (somebody_deletes_the_deployment, "Prefect has no deployment sampling-study/on-demand"),
    (prefect_stops_answering, "Prefect answered 503"),
]
Break = Callable[[World], None]


@pytest.mark.parametrize("phase_s", [0.5, 3.0, 4.5])
@pytest.mark.parametrize(("happens", "cause"), BREAKS)
def test_up_reports_the_cause_once_within_30_s(world: World, happens: Break, cause: str, phase_s: float) -> None:
    broke = world.happens(20.0 + phase_s, happens)
    world.watched(80.0)
    ((at, what),) = world.said
    assert 0.0 <= at - broke <= REPORTED_WITHIN_S
    assert cause in what


@pytest.mark.parametrize(("happens", "cause"), BREAKS)
def test_doctor_reports_the_cause_and_the_next_step_within_30_s(world: World, happens: Break, cause: str) -> None:
    world.pass_time(20.0)
    fine = world.examined()
    broke = world.clock.now()
    happens(world)
    world.pass_time(REPORTED_WITHIN_S - 5.0)
    found = world.examined()
    assert world.clock.now() - broke <= REPORTED_WITHIN_S
    assert (fine.ok, found.ok) == (True, False)
    assert cause in found.what
    assert found.next


def test_a_runner_that_never_started_is_reported_within_30_s(world: World) -> None:
    world.beats = world.polls = False
    world.prefect.polled = None
    world.watched(40.0)
    ((at, what),) = world.said
    found = world.examined()
    assert at - world.began <= REPORTED_WITHIN_S
    assert what.startswith("the flow runner has not reported yet; see ")
    assert (found.ok, found.what) == (False, "the flow runner has not reported yet")
    assert str(world.settings.logs / "runner.log") in found.next


def test_a_healthy_stack_reports_nothing(world: World) -> None:
    state = {"type": "COMPLETED", "name": "Completed", "timestamp": _shown(world.began)}
    world.prefect.last = {"state": state, "start_time": _shown(world.began)}
    somebody_raises_the_limit(world)
    assert world.watched(300.0) == []
    assert world.examined() == Finding("runs", ok=True, what="the flow runner starts runs")


def test_a_run_that_crashed_before_the_runner_started_is_not_reported(world: World) -> None:
    a_run_crashes_at_its_start(world)
    world.clock.wait(60.0)
    world.began = world.clock.now()
    assert world.watched(60.0) == []


def test_up_reports_that_runs_can_start_again(world: World) -> None:
    somebody_sets_the_limit_to_0(world)
    world.happens(30.0, somebody_raises_the_limit)
    first, second = world.watched(60.0)
    assert "the concurrency limit" in first
    assert second == CAN_START


def test_a_restart_of_prefect_is_left_to_the_supervisor(world: World) -> None:
    world.happens(20.0, prefect_stops_answering)
    world.happens(30.0, prefect_answers)
    assert world.watched(80.0) == []


def test_up_prints_the_trouble_that_its_watch_finds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    printed = threading.Event()

    class SupervisorDouble:
        """All services are ready and stay so until the trouble is printed."""

        def __init__(self, *_: object, **__: object) -> None: ...

        def start(self, _stop: threading.Event) -> bool:
            return True

        def run(self, _stop: threading.Event) -> None:
            printed.wait(20.0)

        def stop(self, _hurry: threading.Event) -> None: ...

    def say(event: str, document: dict[str, Any]) -> None:
        said.append((event, document))
        if event == "trouble":
            printed.set()

    monkeypatch.setattr(commands, "Supervisor", SupervisorDouble)
    monkeypatch.setattr(runs_watch, "_LOOK_S", 0.0)
    monkeypatch.setattr(runs_watch, "trouble", lambda *_: Trouble("no room", "make room"))
    commands._serve(world.settings, {}, threading.Event(), threading.Event(), say)
    assert [document["detail"] for event, document in said if event == "trouble"] == ["no room; make room"]
