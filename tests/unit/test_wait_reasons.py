"""Why work waits is decided by facts: the runner's signs of life, Prefect's settings and the run's state, never by the time it waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.access import Role
from core.errors import NotFound, Transient
from core.flow_runs import DEPLOY, POOL_LOST_S, STUDY, WAITS_FOR_A_SLOT, Deployment, Obstacle, RunState, RunType
from core.ports.clock import SystemClock, VirtualClock
from core.services import RUNNER_LOST_S, RunnerBeat
from seatrial.errors import Unavailable
from seatrial.patience import Patience
from seatrial.scores import Waiting as Told
from serving.control.wait_reasons import WaitReason, waiting
from tests.equipment.control_env import control_env

RUN = "run-1"


NOW = VirtualClock().now()
ATTENDED = Deployment(DEPLOY, polled=NOW)


class Prefect:
    """Prefect with one run of one deployment, or with an error for an answer."""

    def __init__(self, state: RunState | Transient | NotFound | None = None, ahead: int = 0, deployment: Deployment = ATTENDED) -> None:
        self._state, self._ahead, self._deployment = state, ahead, deployment

    def state(self, run_id: str) -> RunState | None:
        if isinstance(self._state, Transient | NotFound):
            raise self._state
        return self._state

    def ahead(self, run_id: str) -> int:
        return self._ahead

    def deployment_of(self, run_id: str) -> Deployment:
        return self._deployment

    def deployments(self) -> tuple[Deployment, ...]:
        if isinstance(self._state, Transient):
            raise self._state
        return (self._deployment, Deployment(STUDY, polled=NOW))


def beat(clock: VirtualClock, age_s: float = 1.0, *, full: bool = False) -> RunnerBeat:
    return RunnerBeat("here", 17, 100.0, clock.now() - age_s, 10, full)


SCHEDULED = RunState(RunType.SCHEDULED, "Scheduled", began=False)
UNSTARTED = RunState(RunType.CRASHED, "Crashed", "Flow run could not start: [Errno 13] Permission denied", began=False, at=200.0)


@pytest.mark.parametrize(
    ("prefect", "age_s", "full", "reason"),
    [
        (Prefect(SCHEDULED), 1.0, False, WaitReason.STARTING),
        (Prefect(SCHEDULED, ahead=10), 1.0, True, WaitReason.BUSY),
        (Prefect(SCHEDULED, ahead=9), 1.0, True, WaitReason.STARTING),
        (Prefect(RunState(RunType.PENDING, "Pending", began=False), ahead=9), 1.0, True, WaitReason.STARTING),
        (Prefect(SCHEDULED), RUNNER_LOST_S + 1, False, WaitReason.RUNNER_DOWN),
        (Prefect(UNSTARTED), 1.0, False, WaitReason.CANNOT_START),
        (Prefect(RunState(RunType.CRASHED, "Crashed", "SIGTERM", began=False, at=50.0)), 1.0, False, None),
        (Prefect(Transient("Prefect answered 503", hint="try again")), 1.0, False, WaitReason.PREFECT_UNAVAILABLE),
        (Prefect(RunState(RunType.RUNNING, "Running")), 1.0, False, None),
        (Prefect(RunState(RunType.CRASHED, "Crashed", "killed", began=True)), 1.0, False, None),
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


LIMIT_0 = Obstacle("the concurrency limit of the deployment deploy-model/submit is 0", "raise the limit on Prefect's page")
PAUSED = Obstacle("the work pool seatrial is paused", "resume it on Prefect's page")


@pytest.mark.parametrize("obstacle", [LIMIT_0, PAUSED])
@pytest.mark.parametrize("name", ["Scheduled", "Late", WAITS_FOR_A_SLOT])
@pytest.mark.parametrize("full", [True, False])
def test_a_setting_of_prefect_that_holds_a_run_back_is_reported_at_once(obstacle: Obstacle, name: str, full: bool) -> None:
    clock = VirtualClock()
    scheduled = RunState(RunType.SCHEDULED, name, began=False, due=NOW)
    found = waiting(RUN, beat(clock, full=full), Prefect(scheduled, 99, Deployment(DEPLOY, polled=NOW, obstacle=obstacle)), clock)
    assert found is not None
    assert (found.reason, found.reason.stuck, found.hint) == (WaitReason.BLOCKED, True, obstacle.hint)
    assert found.message == f"its flow run is blocked: {obstacle.cause}"


@pytest.mark.parametrize("age_s", [RUNNER_LOST_S + 1, 100 * RUNNER_LOST_S])
def test_a_run_that_is_late_is_not_stuck_while_the_runner_asks_for_work(age_s: float) -> None:
    clock = VirtualClock()
    found = waiting(RUN, beat(clock), Prefect(RunState(RunType.SCHEDULED, "Late", began=False, due=NOW - age_s)), clock)
    assert found is not None
    assert (found.reason, found.message) == (WaitReason.STARTING, "its flow run is about to start")


@pytest.mark.parametrize(
    ("deployment", "with_beat", "message"),
    [
        (Deployment(DEPLOY), False, "the flow runner has not started yet"),
        (Deployment(DEPLOY), True, "the flow runner has not asked Prefect for work for {s} s"),
        (Deployment(DEPLOY, polled=NOW - 3600), True, "the flow runner has not asked Prefect for work for {s} s"),
        (Deployment(DEPLOY, polled=NOW - 3600), False, "the flow runner has not asked Prefect for work for {s} s"),
        (Deployment(DEPLOY, pool="seatrial"), False, "no worker of the work pool seatrial has asked Prefect for work for {s} s"),
    ],
)
@pytest.mark.parametrize("name", ["Scheduled", "Late", WAITS_FOR_A_SLOT])
def test_a_runner_that_does_not_ask_for_work_is_down_after_the_limit_of_a_heartbeat(
    deployment: Deployment, with_beat: bool, message: str, name: str
) -> None:
    clock = VirtualClock()
    queue = Prefect(RunState(RunType.SCHEDULED, name, began=False, at=NOW, due=NOW), deployment=deployment)
    limit_s = POOL_LOST_S if deployment.pool else RUNNER_LOST_S
    clock.wait(limit_s)
    early = waiting(RUN, beat(clock) if with_beat else None, queue, clock)
    clock.wait(1.0)
    found = waiting(RUN, beat(clock) if with_beat else None, queue, clock)
    assert early is not None
    assert found is not None
    assert not early.reason.stuck
    assert (found.reason, found.reason.stuck) == (WaitReason.RUNNER_DOWN, True)
    assert found.message == message.format(s=f"{limit_s + 1:.0f}")


def test_a_run_that_waits_for_a_slot_of_its_deployment_waits_in_a_queue() -> None:
    clock = VirtualClock()
    queue = Prefect(
        RunState(RunType.SCHEDULED, WAITS_FOR_A_SLOT, began=False, due=NOW + 30), deployment=Deployment(DEPLOY, polled=NOW, limit=2)
    )
    found = waiting(RUN, beat(clock), queue, clock)
    assert found is not None
    assert found.reason is WaitReason.BUSY
    assert found.message == "waiting: all 2 slots of the deployment deploy-model/submit are taken (its concurrency limit)"


MISSING = Deployment(DEPLOY, registered=False, obstacle=Obstacle(f"Prefect has no deployment {DEPLOY}", "restart the flow runner"))


@pytest.mark.parametrize("flow_run", [None, RUN])
@pytest.mark.parametrize(
    ("with_beat", "reason", "message"),
    [
        (True, WaitReason.BLOCKED, f"Prefect has no deployment {DEPLOY}"),
        (False, WaitReason.RUNNER_DOWN, "the flow runner has not started yet"),
    ],
)
def test_a_missing_deployment_is_the_cause_of_a_missing_run(
    flow_run: str | None, with_beat: bool, reason: WaitReason, message: str
) -> None:
    clock = VirtualClock()
    queue = Prefect(NotFound(f"Prefect has no flow run {RUN}"), deployment=MISSING)
    found = waiting(flow_run, beat(clock) if with_beat else None, queue, clock)
    assert found is not None
    assert (found.reason, found.message) == (reason, message)


def test_a_run_that_was_removed_is_started_again() -> None:
    clock = VirtualClock()
    found = waiting(RUN, beat(clock), Prefect(NotFound(f"Prefect has no flow run {RUN}")), clock)
    assert found is not None
    assert (found.reason, found.message) == (WaitReason.STARTING, "its flow run is started again")


def test_a_submission_shows_the_setting_that_holds_it_back(tmp_path: Path) -> None:
    with control_env(tmp_path) as env, env.client(Role.SUBMITTER) as submitter, env.client(Role.OPERATOR) as operator:
        made = submitter.post("/v1/submissions", json={"model": "org/model", "endpoint": "chat"}).json()
        env.runs.states[made["run"]] = RunState(RunType.SCHEDULED, "Late", began=False)
        env.runs.deployment = Deployment(DEPLOY, obstacle=LIMIT_0)
        shown, whole = (client.get(f"/v1/submissions/{made['id']}").json()["waiting"] for client in (submitter, operator))
    assert (shown["reason"], shown["stuck"], whole["hint"]) == ("blocked", True, LIMIT_0.hint)
    assert shown["message"] == whole["message"] == f"its flow run is blocked: {LIMIT_0.cause}"
    assert "seatrial doctor" in shown["hint"]


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
NEVER_BEGAN = Prefect(
    RunState(RunType.CRASHED, "Crashed", f"OSError on {HOST}: /srv/seatrial/runner, process {PID}", began=False, at=200.0)
)


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


def test_a_runner_that_has_just_started_is_not_down_although_its_deployment_was_not_asked_for_overnight() -> None:
    clock = VirtualClock()
    late = RunState(RunType.SCHEDULED, "Late", began=False, due=clock.now() - 36_000)
    fresh = RunnerBeat("here", 17, clock.now() - 1.0, clock.now(), 10, full=False)
    found = waiting(RUN, fresh, Prefect(late, deployment=Deployment(DEPLOY, polled=clock.now() - 36_000)), clock)
    assert found is not None
    assert found.reason is WaitReason.STARTING
