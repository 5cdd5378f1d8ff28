"""A background service: when a pass is due, one instance at a time, and what a failing part does to the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from core.errors import Conflict, SeatrialError, Transient
from core.leases import Lease
from tasks.service import LEASE_S, Duty, Fence, Part, Service
from tests.equipment.bench_env import BenchEnv, in_bench_env
from wiring import Platform

EVERY_S = 60.0


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        yield env


@dataclass
class Counted:
    """A part that counts its runs, and does `what` each time."""

    what: Callable[[Fence], object] = lambda _fence: None
    runs: int = 0
    threads: list[int] = field(default_factory=list)

    def __call__(self, _here: Platform, fence: Fence) -> Sequence[str]:
        self.runs += 1
        self.threads.append(threading.get_ident())
        self.what(fence)
        return ("something",)


def duty(*parts: Part, **more: object) -> Duty:
    made = Duty("tidy", EVERY_S, [(f"part {number}", part) for number, part in enumerate(parts)])
    return replace(made, **more)  # type: ignore[arg-type]


def row(env: BenchEnv) -> Lease:
    lease = env.records.leases.get("tidy")
    assert lease is not None
    return lease


def raising(error: Exception) -> Counted:
    def fail(_fence: Fence) -> None:
        raise error

    return Counted(fail)


def passes(env: BenchEnv, service: Service, seconds: float) -> int:
    """Return how many passes a service makes within `seconds` of virtual time."""
    made = 0
    for _ in range(int(seconds)):
        made += service.step()
        env.clock.wait(1.0)
    return made


def test_a_pass_is_made_at_once_and_then_at_its_interval(env: BenchEnv) -> None:
    part = Counted()
    assert passes(env, Service(env.here, duty(part), "a"), 3 * EVERY_S) == 3
    assert part.runs == 3


def test_the_first_pass_of_an_installation_can_wait(env: BenchEnv) -> None:
    late = replace(duty(Counted()), first_s=3 * EVERY_S)
    service = Service(env.here, late, "a")
    assert passes(env, service, 3 * EVERY_S) == 0
    assert passes(env, service, EVERY_S) == 1
    restarted = Service(env.here, late, "b")
    assert passes(env, restarted, EVERY_S) == 1


def test_a_call_makes_a_pass_before_its_time_and_calls_together_are_one(env: BenchEnv) -> None:
    service = Service(env.here, duty(Counted()), "a")
    service.step()
    env.clock.wait(1.0)
    env.records.leases.call("tidy", env.clock.now())
    env.records.leases.call("tidy", env.clock.now())
    assert passes(env, service, 10) == 1


@pytest.mark.parametrize("every_s", [0.0, EVERY_S])
def test_a_call_from_before_the_clock_was_set_back_makes_one_pass(env: BenchEnv, every_s: float) -> None:
    service = Service(env.here, duty(Counted(), every_s=every_s), "a")
    env.records.leases.call("tidy", env.clock.now() + 3600)
    assert passes(env, service, EVERY_S / 2) == 1
    env.records.leases.call("tidy", env.clock.now())
    assert passes(env, service, EVERY_S / 4) == 1


def test_a_duty_without_an_interval_runs_only_when_it_is_called(env: BenchEnv) -> None:
    service = Service(env.here, duty(Counted(), every_s=0.0), "a")
    assert passes(env, service, 1000) == 0
    env.records.leases.call("tidy", env.clock.now())
    assert passes(env, service, 1000) == 1


def test_two_instances_share_the_passes(env: BenchEnv) -> None:
    part = Counted()
    first, second = (Service(env.here, duty(part), holder) for holder in ("a", "b"))
    for _ in range(300):
        first.step()
        second.step()
        env.clock.wait(1.0)
    assert part.runs == 5


def test_an_instance_that_outlived_its_lease_stops_at_its_next_part_and_writes_nothing(env: BenchEnv) -> None:
    second, after = Counted(), Counted()
    other = Service(env.here, duty(second), "b")

    def sleep(fence: Fence) -> None:
        env.clock.wait(LEASE_S + 1)
        assert other.step()
        fence()
        raise AssertionError("the fence held nothing back")

    Service(env.here, duty(Counted(sleep), after), "a").step()
    assert (second.runs, after.runs) == (1, 0)
    assert (row(env).token, row(env).failed) == (2, "")


def test_a_fence_renews_the_lease_of_a_long_part(env: BenchEnv) -> None:
    part = Counted()
    other = Service(env.here, duty(part), "b")

    def long(fence: Fence) -> None:
        for _ in range(5):
            env.clock.wait(LEASE_S - 1)
            fence()
            assert not other.step()

    assert Service(env.here, duty(Counted(long)), "a").step()
    assert part.runs == 0


@pytest.mark.parametrize("error", [Transient("away"), Conflict("moved on"), KeyError("a bug")], ids=["transient", "conflict", "bug"])
def test_a_part_that_fails_stops_neither_the_other_parts_nor_the_service(env: BenchEnv, error: Exception) -> None:
    after = Counted()
    service = Service(env.here, duty(raising(error), after), "a")
    assert service.step()
    assert after.runs == 1
    assert row(env).failed.startswith("part 0: ")
    assert (error.what if isinstance(error, SeatrialError) else "KeyError") in row(env).failed


def test_a_failed_pass_is_tried_again_soon_and_then_less_and_less_often(env: BenchEnv) -> None:
    part = raising(Transient("away"))
    service = Service(env.here, duty(part), "a")
    assert passes(env, service, 40) == 4, "at 0, 5, 15 and 35 s"
    assert row(env).failures == 4
    part.what = lambda _fence: None
    assert passes(env, service, 240) == 4
    assert (row(env).failures, row(env).failed) == (0, "")


def test_an_early_pass_is_made_when_work_was_left_alone_but_not_twice_in_a_row(env: BenchEnv) -> None:
    service = Service(env.here, duty(Counted(), every_s=1000.0, early=lambda _here, _now: True), "a")
    assert passes(env, service, 61) == 5


def test_with_the_database_unavailable_no_pass_is_made_and_the_service_goes_on(env: BenchEnv) -> None:
    class Away:
        def get(self, _name: str) -> Lease:
            raise Transient("the database is unavailable")

    service, leases = Service(env.here, duty(Counted()), "a"), env.records.leases
    vars(env.records).update(leases=Away())
    assert passes(env, service, 5) == 0
    vars(env.records).update(leases=leases)
    assert passes(env, service, 5) == 1
