"""A lease that ends in the far future, written by a clock that was wrong, keeps work waiting only while its holder renews it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.endpoints import RolloutState
from core.errors import Conflict
from core.flow_runs import RunState
from core.ids import SubmissionId
from core.leases import LONGEST_S, Lease, LeaseWatch
from core.submissions import SubmissionState
from lifecycle import submissions
from tasks.reconcile import reconcile_duty
from tasks.service import LEASE_S, Duty, Service
from tests.equipment.bench_yard import BenchYard, in_yard
from tests.equipment.rows import put_submission
from tests.equipment.samples import CHAT, a_benchmark, a_request, a_rollout

DAY = 86_400.0
LENGTH = 15.0
RUN = "run-1"


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchYard]:
    with in_yard(tmp_path, monkeypatch) as yard:
        yield yard


def test_a_late_end_that_does_not_change_for_the_leases_length_is_stale() -> None:
    watch = LeaseWatch(LENGTH)
    assert not watch.stale({"a": DAY}, 0.0, 100.0)
    assert not watch.stale({"a": DAY}, LENGTH - 1, 100.0 + LENGTH - 1)
    assert watch.stale({"a": DAY}, LENGTH, 100.0 + LENGTH) == {"a"}


@given(ahead=st.floats(-DAY, DAY), step=st.floats(0.1, LENGTH / 2), looks=st.integers(2, 30))
def test_a_holder_that_renews_in_time_keeps_its_lease_whatever_its_clock_shows(ahead: float, step: float, looks: int) -> None:
    watch = LeaseWatch(LENGTH)
    for look in range(looks):
        now = look * step
        assert not watch.stale({"a": now + ahead + LENGTH}, now, now)


def test_an_end_within_the_leases_length_is_left_to_pass() -> None:
    watch = LeaseWatch(LENGTH)
    assert not [now for now in range(100) if watch.stale({"a": 100.0 + LENGTH}, 100.0, float(now))]


def test_the_observers_own_clock_does_not_make_a_lease_stale() -> None:
    watch = LeaseWatch(LENGTH)
    assert not watch.stale({"a": DAY}, 0.0, 100.0)
    assert not watch.stale({"a": DAY}, 2 * LENGTH, 101.0), "only one second has passed"


def test_a_lease_that_was_free_in_between_is_watched_from_the_start() -> None:
    watch = LeaseWatch(LENGTH)
    assert not watch.stale({"a": DAY}, 0.0, 0.0)
    assert not watch.stale({}, 0.0, 10.0)
    assert not watch.stale({"a": DAY}, 0.0, 20.0)


def held_by_a_dead_instance(yard: BenchYard) -> Lease:
    """Take the service's lease with a clock that is a day ahead, and never come back."""
    then = yard.clock.now() + DAY
    lease = yard.records.leases.take("tidy", "dead", then, then + LEASE_S)
    assert lease is not None
    return yard.records.leases.begin(lease, then)


def test_a_service_makes_passes_again_after_an_instance_with_a_wrong_clock_died(yard: BenchYard) -> None:
    dead = held_by_a_dead_instance(yard)
    service = Service(yard.here, Duty("tidy", 60.0, ()), "b")
    waited = 0.0
    while not service.step():
        assert waited <= LONGEST_S + 2
        waited += 1.0
        yard.clock.wait(1.0)
    assert waited >= LONGEST_S
    with pytest.raises(Conflict):
        yard.records.leases.renew(dead, yard.clock.now() + LEASE_S)


def test_an_instance_with_a_wrong_clock_that_lives_keeps_its_lease(yard: BenchYard) -> None:
    lease = held_by_a_dead_instance(yard)
    service = Service(yard.here, Duty("tidy", 60.0, ()), "b")
    for _ in range(int(3 * LONGEST_S / 30)):
        assert not service.step()
        yard.clock.wait(30.0)
        lease = yard.records.leases.renew(lease, yard.clock.now() + DAY + LEASE_S)


def reconciled(yard: BenchYard, minutes: int) -> None:
    """Let reconcile make its passes for so long, without the parts that need engines."""
    duty = reconcile_duty(yard.here.settings)
    parts = [(name, part) for name, part in duty.parts if name in {"leases", "submissions", "benchmarks"}]
    service = Service(yard.here, replace(duty, parts=parts), "a")
    for _ in range(60 * minutes):
        service.step()
        yard.clock.wait(1.0)


def a_submission_that_runs(yard: BenchYard, lease_until: float) -> SubmissionId:
    row = yard.records.submissions.create(a_request(), yard.records.access.principal("ann", 1.0).id, yard.clock.now())
    state = SubmissionState.RUNNING
    put_submission(yard.records, row.id, yard.clock.now(), state=state, flow_run=RUN, driver="process", runs=1, lease_until=lease_until)
    yard.prefect.states[RUN] = RunState("RUNNING", "Running")
    return row.id


def test_a_submission_whose_run_died_with_a_lease_of_a_day_is_resumed_within_minutes(yard: BenchYard) -> None:
    submission = a_submission_that_runs(yard, yard.clock.now() + DAY)
    reconciled(yard, 2)
    assert set(yard.prefect.submitted) == {submission}


def test_a_benchmark_whose_run_died_with_a_lease_of_a_day_is_resumed_within_minutes(yard: BenchYard) -> None:
    row = yard.records.benchmarks.create(a_benchmark(7, flow_run=RUN, runs=1, lease_until=yard.clock.now() + DAY))
    yard.prefect.states[RUN] = RunState("RUNNING", "Running")
    reconciled(yard, 2)
    assert {benchmark for benchmark, _attempt in yard.prefect.started} == {row.id}


def test_a_run_with_a_wrong_clock_that_lives_is_left_alone(yard: BenchYard) -> None:
    submission = a_submission_that_runs(yard, yard.clock.now() + DAY)
    for _ in range(10):
        reconciled(yard, 1)
        submissions.renew(yard.records, yard.clock, submission, "process", yard.clock.now() + DAY)
    assert yard.prefect.submitted == []


def test_a_rollout_whose_driver_died_with_a_lease_of_a_day_gets_another_driver(yard: BenchYard) -> None:
    yard.records.endpoints.ensure(CHAT, yard.clock.now())
    row = yard.records.rollouts.open(a_rollout(state=RolloutState.SHIFTING, lease_owner="dead", lease_until=yard.clock.now() + DAY))
    reconciled(yard, 2)
    assert yard.records.rollouts.get(row.id).lease_until == 0.0
