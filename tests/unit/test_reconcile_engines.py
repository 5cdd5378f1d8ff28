"""The pass that keeps engines, on doubles: what one engine's trouble does to the others, and what the pass tells of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.engines import EnginePhase, EngineSpec, Role
from core.errors import Conflict, Fault, Refused, SeatrialError, Transient
from core.ids import EndpointName, VersionId
from core.ports.clock import Clock
from core.reasons import Reason
from core.submissions import SubmissionState
from tasks.reconcile import keep_engines
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.fakes import FakeEngines
from tests.equipment.kube_env import a_spec
from tests.equipment.rows import put_submission

VERSIONS = tuple(VersionId(letter * 64) for letter in "abcdef")
UNWANTED = VersionId("9" * 64)


class Troubled(FakeEngines):
    """Engines of which some cannot be kept."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.troubles: dict[VersionId, SeatrialError] = {}
        self.asked = 0

    def apply(self, spec: EngineSpec) -> None:
        self.asked += 1
        if spec.version in self.troubles:
            raise self.troubles[spec.version]
        super().apply(spec)


class Recorder:
    """An event recorder that remembers the role of each version at each endpoint."""

    def __init__(self) -> None:
        self.marks: dict[tuple[VersionId, EndpointName], Role | None] = {}

    def mark(self, version: VersionId, endpoint: EndpointName, role: Role | None) -> None:
        self.marks[version, endpoint] = role


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        for number, version in enumerate(VERSIONS):
            env.serve(version, EndpointName(f"e{number}"))
        yield env


@pytest.fixture
def engines(env: BenchEnv) -> Troubled:
    engines = Troubled(env.clock)
    vars(env.here).update(engines=engines)
    engines.apply(a_spec(0, version=UNWANTED))
    return engines


def unfenced() -> None:
    """A lease that is never lost."""


def ready(engines: FakeEngines) -> set[VersionId]:
    return {state.version for state in engines.list() if state.phase is EnginePhase.READY}


@pytest.mark.parametrize(
    "trouble", [Refused("1000 GiB of weights"), Fault("patch: forbidden", hint="grant it"), Transient("a webhook is away")]
)
def test_one_engines_trouble_keeps_no_other_from_being_kept_and_fails_the_pass_by_name(
    env: BenchEnv, engines: Troubled, trouble: SeatrialError
) -> None:
    engines.troubles = {VERSIONS[0]: trouble}
    with pytest.raises(Transient if isinstance(trouble, Transient) else Fault, match=f"not kept: aaaaaaaaaaaa: {trouble}"):
        keep_engines(env.here, unfenced)
    assert ready(engines) == set(VERSIONS[1:])
    assert engines.stops == [(UNWANTED, 30.0)], "those that nobody wants are stopped all the same"


def test_a_cluster_that_is_away_is_not_asked_for_every_engine(env: BenchEnv, engines: Troubled) -> None:
    engines.troubles = {version: Transient("the API server is away") for version in VERSIONS}
    engines.asked = 0
    with pytest.raises(Transient):
        keep_engines(env.here, unfenced)
    assert engines.asked == 3
    assert engines.stops == []


@pytest.mark.usefixtures("engines")
def test_a_removed_endpoint_leaves_no_mark_on_an_engine_that_another_keeps(env: BenchEnv) -> None:
    shared, gone = VERSIONS[0], EndpointName("gone")
    env.serve(shared, gone)
    for row in env.records.submissions.find(states=[SubmissionState.QUEUED], limit=100):
        put_submission(env.records, row.id, env.clock.now(), state=SubmissionState.SERVING)
    recorder = Recorder()
    vars(env.here).update(_cluster=recorder)
    keep_engines(env.here, unfenced)
    assert recorder.marks[shared, gone] is Role.STABLE
    env.records.endpoints.remove(gone, env.clock.now())
    keep_engines(env.here, unfenced)
    assert recorder.marks[shared, gone] is None
    assert recorder.marks[shared, EndpointName("e0")] is Role.STABLE


def test_an_engine_of_another_installation_is_reported(env: BenchEnv, engines: Troubled) -> None:
    engines.troubles = {VERSIONS[0]: Conflict("it belongs to the installation 'blue'", reason=Reason.ENGINE_OF_ANOTHER)}
    with pytest.raises(Fault, match="'blue'"):
        keep_engines(env.here, unfenced)


def test_an_engine_of_other_settings_is_no_trouble(env: BenchEnv, engines: Troubled) -> None:
    engines.troubles = {VERSIONS[0]: Conflict("it runs from another spec")}
    assert keep_engines(env.here, unfenced) == (f"stopped the engine of {UNWANTED[:12]}",)
