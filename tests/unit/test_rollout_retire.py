"""The end of engines that nobody wants, also when the one who decides is slow and others are faster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core.engines import EngineState
from core.ids import VersionId
from lifecycle.engines import retire_unwanted
from tests.equipment.fakes import FakeEngines
from tests.equipment.kube_env import a_spec
from tests.unit.test_rollout_driver import CHAT, FIRST, DriverEnv


class Slow(FakeEngines):
    """Engines during whose first stop something else happens."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def list(self) -> tuple[EngineState, ...]:
        found = super().list()
        self.meanwhile()
        return found


@pytest.fixture
def env(tmp_path: Path) -> DriverEnv:
    return DriverEnv(tmp_path)


def left_over(env: DriverEnv, *versions: VersionId) -> Slow:
    engines = Slow(env.clock)
    for version in versions:
        engines.apply(a_spec(0, version=version))
    return engines


def test_engines_that_nobody_wants_are_stopped(env: DriverEnv) -> None:
    engines = left_over(env, FIRST)
    assert retire_unwanted(env.records, engines, env.clock, drain_s=5.0) == (FIRST,)
    assert engines.stops == [(FIRST, 5.0)]


def test_an_engine_whose_rollout_opens_while_we_look_is_kept(env: DriverEnv) -> None:
    engines = left_over(env, FIRST)
    engines.meanwhile = lambda: env.opened(FIRST)
    assert retire_unwanted(env.records, engines, env.clock, drain_s=5.0) == ()


def test_a_decision_that_was_overtaken_stops_nothing_more(env: DriverEnv) -> None:
    versions = [VersionId(letter * 64) for letter in "12"]
    engines = left_over(env, *versions)
    stop = engines.stop

    def stop_and_be_overtaken(version: VersionId, *, drain_s: float) -> None:
        stop(version, drain_s=drain_s)
        env.opened(versions[1])

    engines.stop = stop_and_be_overtaken  # type: ignore[method-assign]
    assert retire_unwanted(env.records, engines, env.clock, drain_s=5.0) == (versions[0],)
    assert env.records.endpoints.get(CHAT).candidate == versions[1]
