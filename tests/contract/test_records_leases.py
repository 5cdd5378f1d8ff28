"""The contract of Leases and of removing benchmarks, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.benchmarks import BenchmarkState
from core.errors import Conflict, NotFound
from core.leases import RECONCILE, Lease
from registry.database import Database
from tests.equipment.samples import NOW, a_benchmark


def taken(records: Database, holder: str, now: float, seconds: float = 10.0) -> Lease:
    lease = records.leases.take(RECONCILE, holder, now, now + seconds)
    assert lease is not None
    return lease


def test_a_free_lease_is_taken_and_a_held_one_is_not(records: Database) -> None:
    assert records.leases.get(RECONCILE) is None
    lease = taken(records, "a", NOW)
    assert records.leases.take(RECONCILE, "b", NOW + 9, NOW + 19) is None
    assert records.leases.get(RECONCILE) == lease


def test_each_new_holder_gets_the_next_token_and_the_former_one_writes_nothing_any_more(records: Database) -> None:
    first = taken(records, "a", NOW)
    second = taken(records, "b", NOW + 10)
    assert second.token == first.token + 1
    writes: tuple[Callable[[], object], ...] = (
        lambda: records.leases.renew(first, NOW + 99),
        lambda: records.leases.begin(first, NOW + 11),
        lambda: records.leases.end(first, NOW + 11, ""),
    )
    for write in writes:
        with pytest.raises(Conflict, match="taken by b"):
            write()
    records.leases.release(first)
    assert records.leases.get(RECONCILE) == second


def test_taking_ones_own_lease_renews_it_under_the_same_token(records: Database) -> None:
    first = taken(records, "a", NOW)
    again = taken(records, "a", NOW + 5)
    assert (again.token, again.until) == (first.token, NOW + 15)


def test_a_released_lease_is_free_at_once(records: Database) -> None:
    records.leases.release(taken(records, "a", NOW))
    assert taken(records, "b", NOW).holder == "b"


def test_of_many_that_take_it_at_once_one_gets_it(records: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: records.leases.take(RECONCILE, f"h{n}", NOW, NOW + 10), range(8)))
    assert sum(lease is not None for lease in got) == 1


def test_a_call_is_remembered_until_a_pass_begins(records: Database) -> None:
    records.leases.call(RECONCILE, NOW)
    records.leases.call(RECONCILE, NOW - 5)
    lease = taken(records, "a", NOW + 1)
    assert (lease.called_at, lease.began_at) == (NOW, 0.0)
    begun = records.leases.begin(lease, NOW + 1)
    assert begun.called_at < begun.began_at


def test_a_call_of_a_clock_that_was_ahead_is_served_by_the_next_pass(records: Database) -> None:
    records.leases.call(RECONCILE, NOW + 3600)
    begun = records.leases.begin(taken(records, "a", NOW), NOW)
    assert (begun.called_at, begun.began_at) == (NOW, NOW)
    records.leases.call(RECONCILE, NOW + 1)
    found = records.leases.get(RECONCILE)
    assert found is not None
    assert found.called_at == NOW + 1


def test_failures_are_counted_until_a_good_pass(records: Database) -> None:
    lease = taken(records, "a", NOW)
    for number in (1, 2):
        assert records.leases.end(lease, NOW + number, "engines: unavailable").failures == number
    ended = records.leases.end(lease, NOW + 3, "")
    assert (ended.failures, ended.failed, ended.ended_at) == (0, "", NOW + 3)


def test_an_ended_benchmark_is_removed_and_a_running_one_is_not(records: Database) -> None:
    running = records.benchmarks.create(a_benchmark(1))
    ended = records.benchmarks.create(a_benchmark(2, state=BenchmarkState.FAILED, ended_at=NOW))
    for _ in range(2):
        records.benchmarks.remove(ended.id)
    with pytest.raises(NotFound):
        records.benchmarks.get(ended.id)
    with pytest.raises(Conflict):
        records.benchmarks.remove(running.id)
    assert records.benchmarks.get(running.id) == running
