"""The pulse calls a pass for work that nobody drives, and leaves alone what is only on its way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.ids import SubmissionId
from core.submissions import SubmissionState
from serving.control.runs import RunState
from tasks.pulse import beat
from tasks.reconcile import resume
from tests.equipment.bench_yard import BenchYard, in_yard
from tests.equipment.samples import a_request

RUN = "run-1"
FIRST = "reconcile-1"


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchYard]:
    with in_yard(tmp_path, monkeypatch) as yard:
        yield yard


class Beats(threading.Event):
    """Lets virtual time pass instead of waiting, and is set when `seconds` of it are over."""

    def __init__(self, yard: BenchYard, seconds: float) -> None:
        super().__init__()
        self._yard = yard
        self._end = yard.clock.now() + seconds

    def wait(self, timeout: float | None = None) -> bool:
        self._yard.clock.wait(timeout or 0.0)
        return self._yard.clock.now() > self._end


def passes(yard: BenchYard, seconds: float) -> int:
    """Return how many passes the pulse calls within `seconds`."""
    before = yard.prefect.passes
    beat(yard.here, Beats(yard, seconds))
    return yard.prefect.passes - before


def submitted(yard: BenchYard, state: SubmissionState, run: str, lease_until: float = 0.0) -> SubmissionId:
    """Enter a submission with a run in Prefect that is in state `run`."""
    row = yard.records.submissions.create(a_request(), yard.records.access.principal("ann", 1.0).id, yard.clock.now())
    yard.records.submissions.change(row.id, yard.clock.now(), state=state, flow_run=RUN, runs=1, lease_until=lease_until)
    yard.prefect.states[RUN] = RunState(run, run.title())
    return row.id


def test_a_lapsed_lease_calls_a_pass_within_a_beat_or_two(yard: BenchYard) -> None:
    submitted(yard, SubmissionState.RUNNING, "RUNNING", lease_until=yard.clock.now() - 1)
    assert passes(yard, 10) == 1


@pytest.mark.parametrize("state", ["SCHEDULED", "PENDING", "RUNNING"])
def test_a_run_that_is_on_its_way_is_left_alone_until_its_time_is_over(yard: BenchYard, state: str) -> None:
    identity = submitted(yard, SubmissionState.QUEUED, state)
    row = yard.records.submissions.get(identity)
    assert passes(yard, 40) == 0
    assert not resume(yard.here, row)
    assert passes(yard, 20) == 1
    assert resume(yard.here, row)
    assert yard.prefect.crashed == [RUN]


def test_passes_do_not_pile_up_on_a_machine_that_is_too_busy_for_them(yard: BenchYard) -> None:
    submitted(yard, SubmissionState.RUNNING, "RUNNING", lease_until=yard.clock.now() - 1)
    yard.prefect.states[FIRST] = RunState("PENDING", "Pending")
    assert passes(yard, 150) == 1
    yard.prefect.states[FIRST] = RunState("COMPLETED", "Completed")
    yard.prefect.states["reconcile-2"] = RunState("RUNNING", "Running")
    assert passes(yard, 20) == 1


def test_a_pass_whose_process_is_gone_does_not_silence_the_pulse(yard: BenchYard) -> None:
    submitted(yard, SubmissionState.RUNNING, "RUNNING", lease_until=yard.clock.now() - 1)
    yard.prefect.states[FIRST] = RunState("RUNNING", "Running")
    yard.prefect.states["reconcile-2"] = RunState("RUNNING", "Running")
    assert passes(yard, 200) == 2


def test_a_pass_that_prefect_has_forgotten_does_not_silence_it_either(yard: BenchYard) -> None:
    submitted(yard, SubmissionState.RUNNING, "RUNNING", lease_until=yard.clock.now() - 1)
    assert passes(yard, 40) > 1
