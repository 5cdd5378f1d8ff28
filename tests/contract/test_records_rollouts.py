"""The contract of core/ports/records/, on SQLite and on PostgreSQL: rollouts, and many writers at once."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from core.endpoints import Cohort, Rollout, RolloutState, Verdict, Withdrawal
from core.errors import Conflict, NotFound, Stale, Transient
from core.ids import EndpointName, RolloutId, SubmissionId
from core.versions import Decision
from registry.database import Database, migrate, open_database
from tests.equipment.postgres import PostgresServer
from tests.equipment.samples import CANDIDATE, CHAT, NOW, STABLE, a_completion, a_rollout, an_assignment


@pytest.fixture
def rollout(records: Database) -> Rollout:
    records.endpoints.ensure(CHAT, NOW)
    return records.rollouts.open(a_rollout())


def test_opening_makes_the_candidate_the_endpoint_s(records: Database, rollout: Rollout) -> None:
    endpoint = records.endpoints.get(CHAT)
    route = records.gateways.snapshot().routes[CHAT]
    assert (endpoint.candidate, endpoint.rollout) == (CANDIDATE, rollout.id)
    assert records.rollouts.get(rollout.id) == rollout
    assert (route.candidate and route.candidate.version, route.share, route.rollout) == (CANDIDATE, 0.0, rollout.id)


def test_opening_again_returns_the_submission_s_open_rollout(records: Database, rollout: Rollout) -> None:
    assert records.rollouts.open(a_rollout(id=RolloutId("ro-2"))) == rollout


def test_another_submission_s_open_rollout_is_a_conflict(records: Database, rollout: Rollout) -> None:
    with pytest.raises(Conflict, match=rollout.submission):
        records.rollouts.open(a_rollout(id=RolloutId("ro-2"), submission=SubmissionId("sub-2")))


def test_a_rollout_against_another_version_than_the_served_one_is_stale(records: Database, rollout: Rollout) -> None:
    records.rollouts.store(replace(rollout, state=RolloutState.PROMOTED, share=1.0, ended_at=NOW))
    with pytest.raises(Stale, match=f"chat serves {CANDIDATE[:12]}, expected"):
        records.rollouts.open(a_rollout(id=RolloutId("ro-2"), submission=SubmissionId("sub-2")))
    assert records.endpoints.get(CHAT).candidate is None


def test_a_rollout_on_no_endpoint_and_an_unknown_one_are_not_found(records: Database) -> None:
    with pytest.raises(NotFound):
        records.rollouts.open(a_rollout(endpoint=EndpointName("none")))
    with pytest.raises(NotFound):
        records.rollouts.get(RolloutId("ro-0"))
    with pytest.raises(NotFound):
        records.rollouts.cohorts(RolloutId("ro-0"), 120.0)


def test_a_change_stores_all_and_returns_the_next_revision(records: Database, rollout: Rollout) -> None:
    verdict = Verdict(Decision.PASS, "fine", Cohort(conversations=3, ttft_p95_s=0.5), Cohort(bad=1), 1.5, at=NOW)
    shifted = replace(rollout, state=RolloutState.SHIFTING, step=1, share=0.05, verdict=verdict, lease_owner="me", lease_until=NOW + 5)
    changed = records.rollouts.store(shifted)
    assert changed == replace(shifted, revision=1) == records.rollouts.get(rollout.id)
    assert records.gateways.snapshot().routes[CHAT].share == 0.05


def test_why_a_candidate_was_taken_back_is_stored_as_a_value(records: Database, rollout: Rollout) -> None:
    back = replace(rollout, state=RolloutState.ROLLING_BACK, reason="superseded by sub-2", withdrawal=Withdrawal.SUPERSEDED)
    assert records.rollouts.store(back).withdrawal is Withdrawal.SUPERSEDED


def test_a_change_of_an_older_revision_is_a_conflict(records: Database, rollout: Rollout) -> None:
    records.rollouts.store(replace(rollout, share=0.05))
    with pytest.raises(Conflict, match="revision 1"):
        records.rollouts.store(replace(rollout, share=0.25))
    assert records.rollouts.get(rollout.id).share == 0.05


def test_promotion_makes_the_candidate_stable_and_stable_the_previous(records: Database, rollout: Rollout) -> None:
    records.rollouts.store(replace(rollout, state=RolloutState.PROMOTED, ended_at=NOW))
    records.rollouts.open(a_rollout(id=RolloutId("ro-2"), candidate=STABLE, stable=CANDIDATE))
    records.rollouts.store(a_rollout(id=RolloutId("ro-2"), candidate=STABLE, stable=CANDIDATE, state=RolloutState.PROMOTED))
    endpoint = records.endpoints.get(CHAT)
    assert (endpoint.stable, endpoint.previous, endpoint.candidate, endpoint.rollout) == (STABLE, CANDIDATE, None, None)


def test_an_end_clears_the_candidate_and_is_never_left(records: Database, rollout: Rollout) -> None:
    ended = records.rollouts.store(replace(rollout, state=RolloutState.ROLLED_BACK, ended_at=NOW))
    with pytest.raises(Conflict, match="rolled_back"):
        records.rollouts.store(replace(ended, state=RolloutState.SHIFTING))
    assert records.endpoints.get(CHAT).candidate is None
    assert records.gateways.snapshot().routes[CHAT].candidate is None


def test_a_candidate_on_its_way_back_is_withdrawn_from_the_route_at_once(records: Database, rollout: Rollout) -> None:
    records.rollouts.store(replace(rollout, state=RolloutState.ROLLING_BACK))
    route = records.gateways.snapshot().routes[CHAT]
    assert (route.candidate, route.share, route.rollout) == (None, 0.0, None)


def test_rollouts_are_found_by_endpoint_and_state_newest_first(records: Database, rollout: Rollout) -> None:
    records.rollouts.store(replace(rollout, state=RolloutState.CANCELLED))
    newer = records.rollouts.open(a_rollout(id=RolloutId("ro-2"), started_at=NOW + 1))
    assert [row.id for row in records.rollouts.find(endpoint=CHAT)] == [newer.id, rollout.id]
    assert [row.id for row in records.rollouts.find(states=[RolloutState.DARK])] == [newer.id]
    assert records.rollouts.find(endpoint=EndpointName("none")) == ()


def test_of_eight_drivers_at_once_exactly_one_wins_each_revision(records: Database, rollout: Rollout) -> None:
    def drive(driver: int) -> list[int]:
        won = []
        while (row := records.rollouts.get(rollout.id)).revision < 20:
            try:
                won.append(records.rollouts.store(replace(row, lease_owner=f"driver-{driver}")).revision)
            except Conflict:
                continue
        return won

    with ThreadPoolExecutor(8) as threads:
        won = [revision for revisions in threads.map(drive, range(8)) for revision in revisions]
    assert sorted(won) == list(range(1, len(won) + 1))
    assert records.rollouts.get(rollout.id).revision == len(won)


def test_of_eight_submissions_at_once_one_opens_its_rollout(records: Database) -> None:
    records.endpoints.ensure(CHAT, NOW)

    def attempt(number: int) -> bool:
        try:
            records.rollouts.open(a_rollout(id=RolloutId(f"ro-{number}"), submission=SubmissionId(f"sub-{number}")))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(attempt, range(8))) == 1


def write_much(url: str, number: int) -> None:
    """Write as a process of its own does, for a while."""
    with open_database(url) as records:
        for turn in range(60):
            chat = f"conv-{number}-{turn}"
            records.conversations.record([an_assignment(chat)], [a_completion(number * 1000 + turn, chat)], [])
            records.gateways.report(f"gw-{number}", turn, NOW)
            records.endpoints.ensure(EndpointName(f"e-{number}-{turn % 5}"), NOW)


def test_four_processes_write_at_once_and_nobody_is_told_that_the_database_is_locked(records: Database, database_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_much, args=(database_url, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert records.conversations.leaderboard()[0].completions == 240


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_processes_may_migrate_at_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}" if kind == "sqlite" else request.getfixturevalue("postgres").new_database()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=migrate, args=(url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with open_database(url) as records:
        assert records.gateways.generation() == 1


def test_a_database_that_is_away_is_transient_until_it_is_back(postgres: PostgresServer, migrated_postgres: str) -> None:
    with open_database(postgres.new_database(migrated_postgres)) as records:
        records.endpoints.ensure(CHAT, NOW)
        postgres.stop()
        try:
            with pytest.raises(Transient):
                records.gateways.generation()
            with pytest.raises(Transient):
                records.conversations.record([an_assignment()], [a_completion()], [])
        finally:
            postgres.start()
        assert records.endpoints.get(CHAT).name == CHAT
