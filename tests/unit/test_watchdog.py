"""Reconcile does not wait for its interval when work has lost its driver, and leaves alone what is only on its way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.flow_runs import RunState
from core.ids import SubmissionId
from core.submissions import SubmissionState
from tasks.reconcile import reconcile_duty
from tasks.recovery import recovery
from tasks.service import Service
from tests.equipment.bench_yard import BenchYard, in_yard
from tests.equipment.rows import put_submission
from tests.equipment.samples import a_request

RUN = "run-1"


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchYard]:
    with in_yard(tmp_path, monkeypatch) as yard:
        yield yard


def passes(yard: BenchYard, seconds: int) -> int:
    """Return how many passes are made within `seconds` after a first one, none of them for their interval."""
    duty = replace(reconcile_duty(yard.here.settings), every_s=10_000.0, parts=())
    service = Service(yard.here, duty, "a")
    made = 0
    for _ in range(seconds):
        yard.clock.wait(1.0)
        made += service.step()
    return made


@pytest.fixture(autouse=True)
def _settled(yard: BenchYard) -> None:
    assert passes(yard, 20) == 1


def submitted(yard: BenchYard, state: SubmissionState, run: str, lease_until: float = 0.0) -> SubmissionId:
    """Enter a submission with a run in Prefect that is in state `run`."""
    row = yard.records.submissions.create(a_request(), yard.records.access.principal("ann", 1.0).id, yard.clock.now())
    driver = "process" if lease_until else None
    put_submission(yard.records, row.id, yard.clock.now(), state=state, flow_run=RUN, driver=driver, runs=1, lease_until=lease_until)
    yard.prefect.states[RUN] = RunState(run, run.title())
    return row.id


def test_a_lapsed_lease_makes_a_pass_within_seconds(yard: BenchYard) -> None:
    submitted(yard, SubmissionState.RUNNING, "RUNNING", lease_until=yard.clock.now() - 1)
    assert passes(yard, 12) == 1


def test_an_idle_platform_makes_no_pass_before_its_time(yard: BenchYard) -> None:
    assert passes(yard, 600) == 0


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_run_that_is_on_its_way_is_left_alone_until_its_time_is_over(yard: BenchYard, state: str) -> None:
    identity = submitted(yard, SubmissionState.QUEUED, state)
    row = yard.records.submissions.get(identity)
    assert passes(yard, 40) == 0
    assert not recovery(yard.here).resume_submission(row)
    assert passes(yard, 15) == 1
    assert recovery(yard.here).resume_submission(row)
    assert yard.prefect.crashed == [RUN]


def test_passes_do_not_follow_one_another_at_once_while_work_stays_abandoned(yard: BenchYard) -> None:
    submitted(yard, SubmissionState.RUNNING, "RUNNING", lease_until=yard.clock.now() - 1)
    assert 3 <= passes(yard, 60) <= 4
