"""Which engines are wanted, and the end of those that are not."""

from __future__ import annotations

from core.benchmarks import BenchmarkState
from core.endpoints import OPEN_ROLLOUTS
from core.engines import EnginePhase
from core.ids import VersionId
from core.ports import Clock, Engines, Records

GATEWAY_ALIVE_S = 10.0
"""A gateway that has not reported for this long is presumed dead: it follows no routes, and no pass waits for it."""
_LOOK_S = 0.05


def wanted_versions(records: Records) -> frozenset[VersionId]:
    """Return the versions that an endpoint serves, an open rollout tries or a benchmark asks."""
    serving = {endpoint.stable for endpoint in records.endpoints.list() if endpoint.stable}
    trying = {row.candidate for row in records.rollouts.find(states=OPEN_ROLLOUTS, limit=10_000)}
    asked = {row.version for row in records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=10_000)}
    return frozenset(serving | trying | asked)


def settle(records: Records, engines: Engines, clock: Clock, *, drain_s: float) -> None:
    """Wait until every living gateway follows the present routes, then stop the unwanted engines.

    A submitter who learns afterwards that a model serves can use it at once; after a cancellation no engine is left running.
    """
    generation = records.gateways.generation()
    while records.gateways.lagging(generation, clock.now() - GATEWAY_ALIVE_S):
        clock.wait(_LOOK_S)
    retire_unwanted(records, engines, clock, drain_s=drain_s)


def retire_unwanted(records: Records, engines: Engines, clock: Clock, *, drain_s: float) -> tuple[VersionId, ...]:
    """Stop every unwanted engine, and return their versions. Does nothing while a living gateway follows older routes.

    In-flight answers get `drain_s`. Idempotent: stopping an engine that already stops changes nothing.

    Safe beside concurrent passes, however long this one pauses. Engines are listed before the rows are read (a row is written before its
    engine's desired state). Each stop is fenced by the routes' generation: if it has grown, the next pass decides again.
    """
    listed = engines.list()
    generation = records.gateways.generation()
    if records.gateways.lagging(generation, clock.now() - GATEWAY_ALIVE_S):
        return ()
    wanted = wanted_versions(records)
    stopped: list[VersionId] = []
    for state in listed:
        if state.version in wanted or state.phase in {EnginePhase.STOPPING, EnginePhase.ABSENT}:
            continue
        if records.gateways.generation() != generation:
            break
        engines.stop(state.version, drain_s=drain_s)
        stopped.append(state.version)
    return tuple(stopped)
