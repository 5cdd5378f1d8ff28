"""Reconcile does not wait for its interval when work has lost its driver, and leaves alone what is only on its way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.flow_runs import RunState, RunType
from core.ids import SubmissionId
from core.submissions import SubmissionState
from tasks.reconcile import reconcile_duty
from tasks.recovery import recovery
from tasks.service import Service
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.rows import put_submission
from tests.equipment.samples import a_request

RUN = "run-1"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        yield env


def passes(env: BenchEnv, seconds: int) -> int:
    """Return how many passes are made within `seconds` after a first one, none of them for their interval."""
    duty = replace(reconcile_duty(env.here.settings), every_s=10_000.0, parts=())
    service = Service(env.here, duty, "a")
    made = 0
    for _ in range(seconds):
        env.clock.wait(1.0)
        made += service.step()
    return made


@pytest.fixture(autouse=True)
def _settled(env: BenchEnv) -> None:
    assert passes(env, 20) == 1


def submitted(env: BenchEnv, state: SubmissionState, run: str, lease_until: float = 0.0) -> SubmissionId:
    """Enter a submission with a run in Prefect that is in state `run`."""
    row = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    driver = "process" if lease_until else None
    put_submission(env.records, row.id, env.clock.now(), state=state, flow_run=RUN, driver=driver, runs=1, lease_until=lease_until)
    env.prefect.states[RUN] = RunState(RunType(run), run.title())
    return row.id


def test_a_lapsed_lease_makes_a_pass_within_seconds(env: BenchEnv) -> None:
    submitted(env, SubmissionState.RUNNING, "RUNNING", lease_until=env.clock.now() - 1)
    assert passes(env, 12) == 1


def test_an_idle_platform_makes_no_pass_before_its_time(env: BenchEnv) -> None:
    assert passes(env, 600) == 0


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_run_that_is_on_its_way_is_left_alone_until_its_time_is_over(env: BenchEnv, state: str) -> None:
    identity = submitted(env, SubmissionState.QUEUED, state)
    row = env.records.submissions.get(identity)
    assert passes(env, 40) == 0
    assert not recovery(env.here).resume_submission(row)
    assert passes(env, 15) == 1
    assert recovery(env.here).resume_submission(row)
    assert env.prefect.crashed == [RUN]


def test_passes_do_not_follow_one_another_at_once_while_work_stays_abandoned(env: BenchEnv) -> None:
    submitted(env, SubmissionState.RUNNING, "RUNNING", lease_until=env.clock.now() - 1)
    assert 3 <= passes(env, 60) <= 4
