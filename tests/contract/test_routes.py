"""The contract of core/ports/routes.py, from the database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.endpoints import RolloutState
from core.ids import RolloutId, VersionId
from core.ports.clock import VirtualClock
from registry.database import Database
from registry.routes import DatabaseRoutes
from tests.equipment.rows import open_rollout
from tests.equipment.samples import CANDIDATE, CHAT, NOW, STABLE, a_rollout


@pytest.fixture
def addresses() -> dict[VersionId, str]:
    return {}


@pytest.fixture
def routes(records: Database, addresses: dict[VersionId, str]) -> DatabaseRoutes:
    records.endpoints.ensure(CHAT, NOW)
    first = records.rollouts.open(a_rollout(candidate=STABLE))
    records.rollouts.store(replace(first, state=RolloutState.PROMOTED))
    return DatabaseRoutes(records.gateways, addresses.get, VirtualClock(NOW))


def test_the_first_load_has_every_route_with_its_address(routes: DatabaseRoutes, addresses: dict[VersionId, str]) -> None:
    addresses[STABLE] = "http://127.0.0.1:9001"
    snapshot = routes.load(None)
    assert snapshot is not None
    stable = snapshot.routes[CHAT].stable
    assert stable is not None
    assert (stable.version, stable.address) == (STABLE, "http://127.0.0.1:9001")


def test_a_load_of_what_was_seen_is_none(routes: DatabaseRoutes) -> None:
    snapshot = routes.load(None)
    assert snapshot is not None
    assert routes.load(snapshot.generation) is None
    assert routes.load(None) == snapshot
    assert routes.load(snapshot.generation - 1) == snapshot


def test_a_change_in_the_database_is_a_new_generation(routes: DatabaseRoutes, records: Database) -> None:
    before = routes.load(None)
    assert before is not None
    open_rollout(records, id=RolloutId("ro-2"))
    after = routes.load(before.generation)
    assert after is not None
    assert after.generation > before.generation
    candidate = after.routes[CHAT].candidate
    assert candidate is not None
    assert (candidate.version, candidate.address) == (CANDIDATE, None)


def test_an_address_that_comes_and_goes_is_a_new_snapshot_of_the_same_generation(
    routes: DatabaseRoutes, addresses: dict[VersionId, str]
) -> None:
    seen = routes.load(None)
    assert seen is not None
    addresses[STABLE] = "http://127.0.0.1:9001"
    came = routes.load(seen.generation)
    assert came is not None
    assert routes.load(seen.generation) is None
    addresses.clear()
    assert routes.load(seen.generation) == seen
    assert came.generation == seen.generation


def test_a_report_says_what_the_gateway_follows(routes: DatabaseRoutes, records: Database) -> None:
    routes.report("gw-1", 1)
    assert records.gateways.lagging(2, NOW - 1) == ("gw-1",)
    routes.report("gw-1", 2)
    assert records.gateways.lagging(2, NOW - 1) == ()
