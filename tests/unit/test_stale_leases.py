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
from core.flow_runs import RunState, RunType
from core.ids import SubmissionId
from core.leases import LONGEST_S, Lease, LeaseWatch
from core.submissions import SubmissionState
from lifecycle import submissions
from tasks.reconcile import reconcile_duty
from tasks.service import LEASE_S, Duty, Service
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.rows import put_submission
from tests.equipment.samples import CHAT, a_benchmark, a_request, a_rollout

DAY = 86_400.0
LENGTH = 15.0
RUN = "run-1"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        yield env


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


def held_by_a_dead_instance(env: BenchEnv) -> Lease:
    """Take the service's lease with a clock that is a day ahead, and never come back."""
    then = env.clock.now() + DAY
    lease = env.records.leases.take("tidy", "dead", then, then + LEASE_S)
    assert lease is not None
    return env.records.leases.begin(lease, then)


def test_a_service_makes_passes_again_after_an_instance_with_a_wrong_clock_died(env: BenchEnv) -> None:
    dead = held_by_a_dead_instance(env)
    service = Service(env.here, Duty("tidy", 60.0, ()), "b")
    waited = 0.0
    while not service.step():
        assert waited <= LONGEST_S + 2
        waited += 1.0
        env.clock.wait(1.0)
    assert waited >= LONGEST_S
    with pytest.raises(Conflict):
        env.records.leases.renew(dead, env.clock.now() + LEASE_S)


def test_an_instance_with_a_wrong_clock_that_lives_keeps_its_lease(env: BenchEnv) -> None:
    lease = held_by_a_dead_instance(env)
    service = Service(env.here, Duty("tidy", 60.0, ()), "b")
    for _ in range(int(3 * LONGEST_S / 30)):
        assert not service.step()
        env.clock.wait(30.0)
        lease = env.records.leases.renew(lease, env.clock.now() + DAY + LEASE_S)


def reconciled(env: BenchEnv, minutes: int) -> None:
    """Let reconcile make its passes for so long, without the parts that need engines."""
    duty = reconcile_duty(env.here.settings)
    parts = [(name, part) for name, part in duty.parts if name in {"leases", "submissions", "benchmarks"}]
    service = Service(env.here, replace(duty, parts=parts), "a")
    for _ in range(60 * minutes):
        service.step()
        env.clock.wait(1.0)


def a_submission_that_runs(env: BenchEnv, lease_until: float) -> SubmissionId:
    row = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    state = SubmissionState.RUNNING
    put_submission(env.records, row.id, env.clock.now(), state=state, flow_run=RUN, driver="process", runs=1, lease_until=lease_until)
    env.prefect.states[RUN] = RunState(RunType.RUNNING, "Running")
    return row.id


def test_a_submission_whose_run_died_with_a_lease_of_a_day_is_resumed_within_minutes(env: BenchEnv) -> None:
    submission = a_submission_that_runs(env, env.clock.now() + DAY)
    reconciled(env, 2)
    assert set(env.prefect.submitted) == {submission}


def test_a_benchmark_whose_run_died_with_a_lease_of_a_day_is_resumed_within_minutes(env: BenchEnv) -> None:
    row = env.records.benchmarks.create(a_benchmark(7, flow_run=RUN, runs=1, lease_until=env.clock.now() + DAY))
    env.prefect.states[RUN] = RunState(RunType.RUNNING, "Running")
    reconciled(env, 2)
    assert {benchmark for benchmark, _attempt in env.prefect.started} == {row.id}


def test_a_run_with_a_wrong_clock_that_lives_is_left_alone(env: BenchEnv) -> None:
    submission = a_submission_that_runs(env, env.clock.now() + DAY)
    for _ in range(10):
        reconciled(env, 1)
        submissions.renew(env.records, env.clock, submission, "process", env.clock.now() + DAY)
    assert env.prefect.submitted == []


def test_a_rollout_whose_driver_died_with_a_lease_of_a_day_gets_another_driver(env: BenchEnv) -> None:
    env.records.endpoints.ensure(CHAT, env.clock.now())
    row = env.records.rollouts.open(a_rollout(state=RolloutState.SHIFTING, lease_owner="dead", lease_until=env.clock.now() + DAY))
    reconciled(env, 2)
    assert env.records.rollouts.get(row.id).lease_until == 0.0
