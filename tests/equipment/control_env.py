"""The real control API over a real database in SQLite, with a double of Prefect that remembers what it was asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from core.access import Key, Role, new_secret, secret_digest
from core.errors import Transient
from core.flow_runs import DEPLOY, Deployment, LogLine, RunState
from core.ids import BenchmarkId, EndpointName, SubmissionId
from core.leases import RECONCILE
from core.links import Links
from core.ports.clock import SystemClock
from core.ports.null import AnySuite
from core.ports.suites import Suites
from registry.answers import Answers
from registry.database import Database, migrate, open_database
from serving.control.app import control
from serving.control.context import ControlContext
from tests.equipment.fakes import FakeEngines, FakeHistory
from wiring.benchmark_results import StoredBenchmarkResults

LINKS = Links("http://prefect", "http://mlflow", "http://127.0.0.1:9")


@dataclass
class RunsDouble:
    """Prefect as the control API sees it: `away` makes every call Transient."""

    away: bool = False
    started: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    benchmarks: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)
    studies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    lines: tuple[LogLine, ...] = ()
    states: dict[str, RunState] = field(default_factory=dict)
    queued: int = 0
    deployment: Deployment | None = None
    """The deployment of every run; None: one that a runner asks for work."""

    def start(self, submission: SubmissionId, attempt: int, request: Mapping[str, str]) -> str:
        self._answer()
        self.started.append((submission, attempt, dict(request)))
        return f"run-of-{submission}-{attempt}"

    def start_benchmark(self, benchmark: BenchmarkId, attempt: int, request: Mapping[str, Any]) -> str:
        self._answer()
        self.benchmarks.append((benchmark, attempt, dict(request)))
        return f"run-of-{benchmark}-{attempt}"

    def start_study(self, study: str, request: Mapping[str, Any]) -> str:
        self._answer()
        self.studies.append((study, dict(request)))
        return f"run-of-{study}"

    def cancel(self, run_id: str) -> None:
        self._answer()
        self.cancelled.append(run_id)

    def crash(self, run_id: str) -> None:
        raise AssertionError(f"the control API marks no run as crashed: {run_id}")

    def state(self, run_id: str) -> RunState | None:
        self._answer()
        return self.states.get(run_id)

    def ahead(self, run_id: str) -> int:
        self._answer()
        return self.queued

    def deployment_of(self, run_id: str) -> Deployment:
        self._answer()
        return self.deployment or Deployment(DEPLOY, polled=SystemClock().now())

    def deployments(self) -> tuple[Deployment, ...]:
        self._answer()
        return (self.deployment or Deployment(DEPLOY, polled=SystemClock().now()),)

    def logs(self, run_id: str, after: float | None = None) -> tuple[LogLine, ...]:
        self._answer()
        return tuple(line for line in self.lines if after is None or line.at >= after)

    def _answer(self) -> None:
        if self.away:
            raise Transient("Prefect is away")


@dataclass
class ControlEnv:
    """The app, what is behind it, and a way to get keys."""

    app: FastAPI
    records: Database
    runs: RunsDouble
    engines: FakeEngines
    answers: Answers

    def secret(self, role: Role, name: str | None = None, endpoints: tuple[str, ...] = (), expires_at: float | None = None) -> str:
        """Enter a key and return its secret."""
        now = SystemClock().now()
        who = self.records.access.principal(name or role.value, now)
        identity, secret = new_secret()
        allowed = tuple(EndpointName(endpoint) for endpoint in endpoints)
        self.records.access.add_key(Key(identity, who.id, who.name, role, allowed, secret_digest(secret), now, expires_at))
        return secret

    def client(self, role: Role | None = None, name: str | None = None, endpoints: tuple[str, ...] = ()) -> TestClient:
        """Return an HTTP client with a key of this role."""
        headers = {"Authorization": f"Bearer {self.secret(role, name, endpoints)}"} if role else {}
        return TestClient(self.app, headers=headers, raise_server_exceptions=False)


def called(env: ControlEnv) -> bool:
    """Return whether somebody asked reconcile for a pass."""
    lease = env.records.leases.get(RECONCILE)
    return lease is not None and lease.called_at > 0


@contextmanager
def control_env(folder: Path, suites: Suites | None = None) -> Iterator[ControlEnv]:
    """Yield a control API on a database in a folder, with doubles of Prefect and of the engines."""
    url = f"sqlite:///{folder / 'control.db'}"
    migrate(url)
    with open_database(url) as records:
        runs, engines = RunsDouble(), FakeEngines(SystemClock())
        answers = Answers(folder / "benchmarks", FakeHistory())
        results = StoredBenchmarkResults(answers)
        app = control(ControlContext(records, runs, engines, SystemClock(), LINKS, results, suites=suites or AnySuite()))
        yield ControlEnv(app, records, runs, engines, answers)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an app on a free loopback port; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)
