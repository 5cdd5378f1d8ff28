"""A platform of doubles around a real database, on which the tasks of benchmarks run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import wiring
from core.endpoints import EndpointPolicy, RolloutState
from core.errors import NotFound, Transient
from core.flow_runs import RunState
from core.ids import BenchmarkId, EndpointName, SubmissionId, VersionId
from core.ports.clock import VirtualClock
from core.settings import BenchmarkPolicy, read_settings
from registry.answers import Answers
from registry.database import migrate, open_database
from tests.equipment.fakes import FakeBenchmarkRunner, FakeEngines, FakeHistory
from tests.equipment.rows import open_rollout
from tests.equipment.samples import CHAT, a_request, a_version
from wiring import Platform


@dataclass
class PrefectDouble:
    """Prefect as tasks see it."""

    away: bool = False
    states: dict[str, RunState] = field(default_factory=dict)
    started: list[tuple[str, int]] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)

    def start(self, submission: SubmissionId, attempt: int, _request: Mapping[str, str]) -> str:
        self._answer()
        self.submitted.append(submission)
        return f"run-{submission}-{attempt}"

    def start_benchmark(self, benchmark: BenchmarkId, attempt: int, _request: Mapping[str, Any]) -> str:
        self._answer()
        self.started.append((benchmark, attempt))
        return f"run-{benchmark}-{attempt}"

    def state(self, run: str) -> RunState | None:
        self._answer()
        if run not in self.states:
            raise NotFound(f"no run {run}")
        return self.states[run]

    def crash(self, run: str) -> None:
        self.crashed.append(run)

    def _answer(self) -> None:
        if self.away:
            raise Transient("Prefect is away")


class BenchEnv:
    """Doubles of engines, benchmark runner, history and Prefect; database, answers and settings are real."""

    def __init__(self, home: Path) -> None:
        url = f"sqlite:///{home / 'env.db'}"
        migrate(url)
        (home / "operator.key").write_text("st-operator")
        self.clock = VirtualClock(1_700_000_000.0)
        self.here = Platform(replace(read_settings({"HOME": str(home)}, home=home), database_url=url))
        self.here.clock = self.clock
        self.records = open_database(url, clock=self.clock)
        self.engines = FakeEngines(self.clock)
        self.benchmark_runner = FakeBenchmarkRunner()
        self.history = FakeHistory()
        self.prefect = PrefectDouble()
        self.answers = Answers(self.here.settings.answers, self.history)
        vars(self.here).update(
            records=self.records, engines=self.engines, benchmark_runner=self.benchmark_runner, history=self.history, runs=self.prefect,
            answers=self.answers, weights=_Weights(), alarm=None,
        )  # fmt: skip

    def policy(self, **fields: Any) -> None:
        """Change the settings of benchmarks."""
        self.here.settings = replace(self.here.settings, benchmarks=replace(BenchmarkPolicy(), **fields))

    def serve(self, version: VersionId, endpoint: EndpointName = CHAT, **policy: Any) -> None:
        """Make an endpoint serve a version, as a rollout that was promoted does."""
        self.records.versions.put(a_version(id=version, commit=version[:40]))
        self.records.endpoints.ensure(endpoint, self.clock.now())
        submission = self.records.submissions.create(
            a_request(endpoint=endpoint), self.records.access.principal("ann", 1.0).id, self.clock.now()
        )
        number = len(self.records.rollouts.find(limit=1000))
        opened = open_rollout(self.records, id=f"ro-{number}", submission=submission.id, endpoint=endpoint, candidate=version)
        self.records.rollouts.store(replace(opened, state=RolloutState.PROMOTED, ended_at=self.clock.now()))
        if policy:
            self.records.endpoints.set_policy(endpoint, EndpointPolicy(**policy))


class _Weights:
    """Every bundle is stored."""

    def claim(self, installation: str, *, take_over: bool = False) -> str:
        return installation

    def reclaim(self, digest: str) -> Any:
        return self.open(digest)

    def open(self, digest: str) -> Any:
        return _Bundle(f"file:///weights/{digest}")


@dataclass(frozen=True)
class _Bundle:
    uri: str
    published: bool = True


@contextmanager
def in_bench_env(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    """Let `platform()` return this environment's adapters in every task."""
    monkeypatch.setenv("SEATRIAL_HOME", str(home))
    env = BenchEnv(home)
    wiring.platform.cache_clear()
    here = wiring.platform()
    vars(here).update(vars(env.here))
    env.here = here
    try:
        yield env
    finally:
        env.records.close()
        wiring.platform.cache_clear()
