"""Which engines are wanted, and the end of those that are not."""

from __future__ import annotations

from core.benchmarks import BenchmarkState
from core.endpoints import RolloutState
from core.engines import EnginePhase
from core.ids import VersionId
from core.ports import Clock, Engines, Records

GATEWAY_ALIVE_S = 10.0
"""A gateway that has not reported for so long is taken for dead: it follows nothing, and nobody waits for it."""


def wanted_versions(records: Records) -> frozenset[VersionId]:
    """Return the versions that an endpoint serves, an open rollout tries or a benchmark asks."""
    serving = {endpoint.stable for endpoint in records.endpoints.list() if endpoint.stable}
    trying = {row.candidate for row in records.rollouts.find(states=[state for state in RolloutState if not state.ended], limit=10_000)}
    asked = {row.version for row in records.benchmarks.find(states=[BenchmarkState.RUNNING], limit=10_000)}
    return frozenset(serving | trying | asked)


def retire_unwanted(records: Records, engines: Engines, clock: Clock, *, drain_s: float) -> tuple[VersionId, ...]:
    """Stop every engine that nobody wants, and return which. Does nothing while a living gateway follows older routes.

    In-flight answers get `drain_s`. Idempotent: stopping what stops already changes nothing.
    """
    if records.gateways.lagging(records.gateways.generation(), clock.now() - GATEWAY_ALIVE_S):
        return ()
    wanted = wanted_versions(records)
    unwanted = tuple(
        state.version
        for state in engines.list()
        if state.version not in wanted and state.phase not in {EnginePhase.STOPPING, EnginePhase.ABSENT}
    )
    for version in unwanted:
        engines.stop(version, drain_s=drain_s)
    return unwanted
