"""In-memory doubles of ports, held to the same contract suites as the adapters."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from core.benchmarks import Benchmark, BenchmarkState, Form, Plan, Sample
from core.engines import EngineCause, EnginePhase, EngineSpec, EngineState
from core.errors import Conflict, NotFound, Transient
from core.ids import Digest, EndpointName, VersionId
from core.ports.benchmark_runner import Progress
from core.ports.clock import Clock
from core.ports.history import Recorded
from core.ports.models import RegisteredModel
from core.reasons import Reason
from core.versions import ModelVersion, TrialReport
from tests.equipment.samples import a_sample


@dataclass(slots=True)
class _Engine:
    spec: EngineSpec
    state: EngineState
    gone_at: float | None = None
    log: list[str] = field(default_factory=list)


class FakeEngines:
    """The Engines port in memory. An engine is ready `start_s` of `clock` after `apply`, unless `fail` was told; a stop takes `stop_s`."""

    def __init__(self, clock: Clock, *, start_s: float = 0.0, stop_s: float = 0.0) -> None:
        self._clock = clock
        self._start_s = start_s
        self._stop_s = stop_s
        self._engines: dict[VersionId, _Engine] = {}
        self._logs: dict[VersionId, list[str]] = {}
        self._failures: dict[VersionId, tuple[str, EngineCause]] = {}
        self._ports = iter(range(20_000, 60_000))
        self.stops: list[tuple[VersionId, float]] = []
        """What `stop` was called with, in order."""
        self.woken: list[VersionId] = []

    def fail(self, version: VersionId, detail: str, cause: EngineCause = EngineCause.EXCEPTION) -> None:
        """Let the version's starts fail with `detail`; an empty one lets them work again. A ready engine becomes failed."""
        if not detail:
            self._failures.pop(version, None)
            return
        self._failures[version] = detail, cause
        engine = self._engines.get(version)
        if engine is not None:
            engine.state = replace(engine.state, phase=EnginePhase.FAILED, address=None, detail=detail, cause=cause)

    def sleep(self, version: VersionId) -> None:
        """Let a version sleep until it is woken, as an autoscaler does."""
        engine = self._engines[version]
        engine.state = replace(
            engine.state,
            phase=EnginePhase.RESTARTING,
            address=None,
            detail="asleep (scaled to zero)",
            cause=EngineCause.ASLEEP,
            since=math.inf,
        )

    def activate(self, version: VersionId) -> bool:
        """See the port Activator."""
        engine = self._engines.get(version)
        slept = engine is not None and engine.state.since == math.inf
        if engine is not None and slept:
            engine.state = replace(engine.state, detail="", cause=None, since=self._clock.now())
            self.woken.append(version)
        return slept

    def crash(self, version: VersionId) -> None:
        """Let a ready engine die; it is ready again after `start_s`."""
        engine = self._engines[version]
        engine.state = replace(
            engine.state, phase=EnginePhase.RESTARTING, address=None, restarts=engine.state.restarts + 1, since=self._clock.now()
        )

    def apply(self, spec: EngineSpec) -> None:
        """See the port."""
        engine = self._engines.get(spec.version)
        if engine is not None and engine.spec != spec:
            raise Conflict(f"engine {spec.version[:12]} runs from another spec", hint="stop it first")
        if engine is None or engine.gone_at is not None or engine.state.phase is EnginePhase.FAILED:
            started = EngineState(spec.version, EnginePhase.STARTING, since=self._clock.now())
            self._engines[spec.version] = _Engine(spec, started)
            self._logs.setdefault(spec.version, []).append("started")

    def state(self, version: VersionId) -> EngineState:
        """See the port."""
        engine = self._engines.get(version)
        if engine is None:
            return EngineState(version, EnginePhase.ABSENT)
        now = self._clock.now()
        if engine.gone_at is not None and now >= engine.gone_at:
            del self._engines[version]
            return EngineState(version, EnginePhase.ABSENT)
        coming = engine.state.phase in {EnginePhase.STARTING, EnginePhase.RESTARTING}
        if coming and now - engine.state.since >= self._start_s:
            engine.state = self._arrived(engine.state)
        return engine.state

    def list(self) -> tuple[EngineState, ...]:
        """See the port."""
        states = (self.state(version) for version in sorted(self._engines))
        return tuple(state for state in states if state.phase is not EnginePhase.ABSENT)

    def stop(self, version: VersionId, *, drain_s: float) -> None:
        """See the port."""
        engine = self._engines.get(version)
        self.stops.append((version, drain_s))
        if engine is not None and engine.gone_at is None:
            engine.gone_at = self._clock.now() + min(drain_s, self._stop_s)
            engine.state = replace(engine.state, phase=EnginePhase.STOPPING, address=None, since=self._clock.now())

    def logs(self, version: VersionId, lines: int) -> tuple[str, ...]:
        """See the port."""
        return tuple(self._logs.get(version, [])[-lines:]) if lines > 0 else ()

    def _arrived(self, state: EngineState) -> EngineState:
        if state.version in self._failures:
            detail, cause = self._failures[state.version]
            self._logs.setdefault(state.version, []).append(detail)
            return replace(state, phase=EnginePhase.FAILED, detail=detail, cause=cause, since=self._clock.now())
        address = f"http://127.0.0.1:{next(self._ports)}"
        return replace(state, phase=EnginePhase.READY, address=address, since=self._clock.now(), load_seconds=self._start_s)


class FakeModels:
    """`ModelRegistry` in memory."""

    def __init__(self) -> None:
        self.entries: dict[EndpointName, list[VersionId]] = {}
        self.aliases: dict[EndpointName, tuple[VersionId | None, VersionId | None]] = {}

    def register(
        self, endpoint: EndpointName, version: ModelVersion, reports: Sequence[TrialReport], links: Mapping[str, str], artifact_uri: str
    ) -> RegisteredModel:
        known = self.entries.setdefault(endpoint, [])
        if version.id not in known:
            known.append(version.id)
        number = known.index(version.id) + 1
        return RegisteredModel(f"models:/{endpoint}/{number}", number, artifact_uri)

    def mark(self, endpoint: EndpointName, *, champion: VersionId | None, challenger: VersionId | None) -> None:
        known = self.entries.get(endpoint)
        if known is None or any(version is not None and version not in known for version in (champion, challenger)):
            raise NotFound(f"no such version of {endpoint}", hint="register it first")
        self.aliases[endpoint] = (champion, challenger)


class FakeHistory:
    """`BenchmarkHistory` in memory. `away` makes every call Transient."""

    def __init__(self) -> None:
        self.away = False
        self.entries: dict[str, Mapping[str, float]] = {}
        self.points: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
        self.ends: dict[str, tuple[BenchmarkState, float | None, str]] = {}
        self._kept = tempfile.TemporaryDirectory(prefix="fake-history-")  # goes with the double
        self._folder = Path(self._kept.name)

    def record(self, benchmark: Benchmark, model: str, curves: Mapping[str, float], files: Mapping[str, Path], *, order: int) -> Recorded:
        self._answer()
        self.entries[benchmark.id] = dict(benchmark.numbers)
        self.ends[benchmark.id] = (benchmark.state, benchmark.ended_at, model)
        self.points.setdefault((benchmark.endpoint or benchmark.version, benchmark.plan.suite), {})[order] = dict(curves)
        for name, path in files.items():
            shutil.copy(path, self._folder / f"{benchmark.id}.{name}")
        return Recorded(f"http://fake/{benchmark.id}", f"fake:{benchmark.id}")

    def fetch(self, uri: str, into: Path) -> None:
        self._answer()
        path = self._folder / f"{uri.removeprefix('fake:')}.rows.jsonl.gz"
        if not path.exists():
            raise NotFound(f"there are no rows at {uri}", reason=Reason.NO_ANSWERS)
        shutil.copy(path, into)

    def forget(self, benchmark: Benchmark) -> None:
        self._answer()
        self.entries.pop(benchmark.id, None)
        for path in self._folder.glob(f"{benchmark.id}.*"):
            path.unlink()

    def compact(self) -> bool:
        self._answer()
        return False

    def _answer(self) -> None:
        if self.away:
            raise Transient("the history is away")


class FakeBenchmarkRunner:
    """`BenchmarkRunner` in memory: `rates` says which part of a version's answers passes at a problem, `away` makes every engine Transient.

    Answers are drawn by `seed`, which grows with every run, so that two runs of one version differ as real ones do.
    """

    def __init__(self, problems: int = 40) -> None:
        self.problems = problems
        self.rates: dict[VersionId, float] = {}
        self.away = False
        self.asked: list[tuple[str, VersionId]] = []
        self._seed = 0

    def pin(self, asked: Plan, own: Form) -> Plan:
        if asked.suite_digest:
            return asked
        form = own if asked.form is Form.OWN else asked.form
        grid = tuple(replace(point, max_tokens=point.max_tokens or 512) for point in asked.grid)
        return replace(asked, suite_digest=Digest("5" * 64), prompt=f"{form}@1", extractor="code-1", form=form, grid=grid)

    def run(self, address: str, version: VersionId, plan: Plan, rows: Path, progress: Progress) -> tuple[Sample, ...]:
        if self.away:
            raise Transient("the engine is away")
        self.asked.append((address, version))
        self._seed += 1
        draw = random.Random(self._seed)
        rows.write_text("{}\n")
        progress(0.5, "half of it")
        return tuple(
            a_sample(problem, index, passed=draw.random() < self.rates.get(version, 0.5), sampling=point.key, text=str(draw.random()))
            for point in plan.grid
            for problem in range(self.problems)
            for index in range(plan.samples)
        )
