"""Why work waits is decided by facts: the runner's heartbeat and the run's state, never by how long nothing happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.access import Role
from core.errors import Transient
from core.flow_runs import RunState
from core.ports.clock import SystemClock, VirtualClock
from core.services import RUNNER_LOST_S, RunnerBeat
from seatrial.errors import Unavailable
from seatrial.patience import Patience
from seatrial.scores import Waiting as Told
from serving.control.wait_reasons import WaitReason, waiting
from tests.equipment.control_env import control_env

RUN = "run-1"


class Prefect:
    """Prefect with one run, or with an error for an answer."""

    def __init__(self, state: RunState | Transient | None = None, ahead: int = 0) -> None:
        self._state, self._ahead = state, ahead

    def state(self, run_id: str) -> RunState | None:
        if isinstance(self._state, Transient):
            raise self._state
        return self._state

    def ahead(self, run_id: str) -> int:
        return self._ahead


def beat(clock: VirtualClock, age_s: float = 1.0, *, full: bool = False) -> RunnerBeat:
    return RunnerBeat("here", 17, 100.0, clock.now() - age_s, 10, full)


SCHEDULED = RunState("SCHEDULED", "Scheduled", began=False)
UNSTARTED = RunState("CRASHED", "Crashed", "Flow run could not start: [Errno 13] Permission denied", began=False, at=200.0)


@pytest.mark.parametrize(
    ("prefect", "age_s", "full", "reason"),
    [
        (Prefect(SCHEDULED), 1.0, False, WaitReason.STARTING),
        (Prefect(SCHEDULED, ahead=10), 1.0, True, WaitReason.BUSY),
        (Prefect(SCHEDULED, ahead=9), 1.0, True, WaitReason.STARTING),
        (Prefect(RunState("PENDING", "Pending", began=False), ahead=9), 1.0, True, WaitReason.STARTING),
        (Prefect(SCHEDULED), RUNNER_LOST_S + 1, False, WaitReason.RUNNER_DOWN),
        (Prefect(UNSTARTED), 1.0, False, WaitReason.CANNOT_START),
        (Prefect(RunState("CRASHED", "Crashed", "SIGTERM", began=False, at=50.0)), 1.0, False, None),
        (Prefect(Transient("Prefect answered 503", hint="try again")), 1.0, False, WaitReason.PREFECT_UNAVAILABLE),
        (Prefect(RunState("RUNNING", "Running")), 1.0, False, None),
        (Prefect(RunState("CRASHED", "Crashed", "killed", began=True)), 1.0, False, None),
    ],
)
def test_the_reason_follows_from_the_run_and_the_heartbeat(prefect: Prefect, age_s: float, full: bool, reason: WaitReason | None) -> None:
    clock = VirtualClock()
    found = waiting(RUN, beat(clock, age_s, full=full), prefect, clock)
    assert (found.reason if found else None) is reason


def test_a_full_runner_says_how_many_runs_come_first_and_is_not_stuck() -> None:
    clock = VirtualClock()
    found = waiting(RUN, beat(clock, full=True), Prefect(SCHEDULED, ahead=13), clock)
    assert found is not None
    assert (found.reason.stuck, found.message) == (False, "waiting: 13 runs before it (all 10 slots of the flow runner are taken)")


def test_a_run_that_cannot_start_shows_its_cause() -> None:
    clock = VirtualClock()
    found = waiting(RUN, beat(clock), Prefect(UNSTARTED), clock)
    assert found is not None
    assert "Permission denied" in found.for_operators().message
    assert "doctor" in found.hint


def test_a_queued_submission_shows_why_it_waits(tmp_path: Path) -> None:
    with control_env(tmp_path) as env, env.client(Role.SUBMITTER) as client:
        made = client.post("/v1/submissions", json={"model": "org/model", "endpoint": "chat"}).json()
        env.runs.states[made["run"]] = UNSTARTED
        shown = client.get(f"/v1/submissions/{made['id']}").json()
        assert (shown["state"], shown["waiting"]["reason"], shown["waiting"]["stuck"]) == ("queued", "cannot_start", True)
        env.records.runners.beat(RunnerBeat("here", 17, 100.0, SystemClock().now() - 60, 10, full=False))
        shown = client.get(f"/v1/submissions/{made['id']}").json()
        assert shown["waiting"]["reason"] == "runner_down"


HOST, PID, URL = "node-7.internal", 4711, "http://10.0.0.3:4200/api"
INTERNAL = (HOST, str(PID), URL, "/srv/seatrial")
UNREACHABLE = Prefect(Transient(f"Prefect at {URL} does not answer: refused", hint=f"open {URL}"))
NEVER_BEGAN = Prefect(RunState("CRASHED", "Crashed", f"OSError on {HOST}: /srv/seatrial/runner, process {PID}", began=False, at=200.0))


@pytest.mark.parametrize(
    ("flow_run", "prefect", "age_s", "told"),
    [
        (RUN, Prefect(SCHEDULED), 60.0, "the flow runner is down (its last heartbeat was 60 s ago)"),
        (RUN, UNREACHABLE, 1.0, "Prefect is unavailable"),
        (None, UNREACHABLE, 1.0, "Prefect has not accepted its flow run yet"),
        (RUN, NEVER_BEGAN, 1.0, "its flow run could not start"),
        (RUN, Prefect(SCHEDULED), 1.0, "its flow run is about to start"),
    ],
)
def test_a_submitter_gets_the_cause_without_internals(flow_run: str | None, prefect: Prefect, age_s: float, told: str) -> None:
    clock = VirtualClock()
    found = waiting(flow_run, RunnerBeat(HOST, PID, 100.0, clock.now() - age_s, 10, full=False), prefect, clock)
    assert found is not None
    shown = found.for_submitters()
    assert shown.message == told
    assert not [word for word in INTERNAL if word in f"{shown}"]
    assert shown.hint == ("ask an operator to run `seatrial doctor` on the platform's machine" if found.reason.stuck else "")


@pytest.mark.parametrize(
    ("prefect", "age_s", "internal"),
    [(Prefect(SCHEDULED), 60.0, f"process {PID} on {HOST}"), (UNREACHABLE, 1.0, URL), (NEVER_BEGAN, 1.0, "/srv/seatrial/runner")],
)
def test_an_operator_gets_everything(prefect: Prefect, age_s: float, internal: str) -> None:
    clock = VirtualClock()
    found = waiting(RUN, RunnerBeat(HOST, PID, 100.0, clock.now() - age_s, 10, full=False), prefect, clock)
    assert found is not None
    assert internal in found.for_operators().message


def test_the_key_decides_how_much_of_the_cause_a_caller_sees(tmp_path: Path) -> None:
    with control_env(tmp_path) as env, env.client(Role.SUBMITTER) as submitter, env.client(Role.OPERATOR) as operator:
        made = submitter.post("/v1/submissions", json={"model": "org/model", "endpoint": "chat"}).json()
        env.records.runners.beat(RunnerBeat(HOST, PID, 100.0, SystemClock().now() - 60, 10, full=False))
        hidden, whole = (client.get(f"/v1/submissions/{made['id']}").json()["waiting"] for client in (submitter, operator))
        cancelled = submitter.post(f"/v1/submissions/{made['id']}/cancel").json()["waiting"]
    assert not [word for word in (HOST, str(PID)) if word in f"{hidden}{cancelled}"]
    assert hidden["message"].startswith("the flow runner is down")
    assert f"process {PID} on {HOST}" in whole["message"]


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


STUCK = Told("runner_down", stuck=True, message="the flow runner is down", hint="run doctor")


def test_watching_ends_with_the_reason_once_work_is_stuck_for_too_long() -> None:
    time = Time()
    patience = Patience(60.0, time)
    patience.see(STUCK)
    time.now = 61.0
    with pytest.raises(Unavailable, match="the flow runner is down"):
        patience.see(STUCK)


@pytest.mark.parametrize("between", [None, Told("busy", stuck=False, message="waiting: 3 runs before it")])
def test_work_that_moved_or_waits_for_its_turn_is_waited_for_without_a_limit(between: Told | None) -> None:
    time = Time()
    patience = Patience(60.0, time)
    for minute in range(100):
        time.now = 50.0 * minute
        patience.see(STUCK if minute % 2 else between)
