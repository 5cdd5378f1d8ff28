"""A submission of what an endpoint serves already: an engine answers at its end, or it is refused with the cause."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.engines import EnginePhase
from core.errors import Refused
from core.submissions import StepState, Submission
from tasks.release import already_serving, ensure_served
from tasks.start import engine_spec
from tests.equipment.bench_yard import BenchYard, in_yard
from tests.equipment.samples import STABLE, a_request


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchYard]:
    with in_yard(tmp_path, monkeypatch) as yard:
        yard.serve(STABLE)
        yield yard


@pytest.fixture
def submission(yard: BenchYard) -> Submission:
    """A new submission of the version that serves."""
    row = yard.records.submissions.create(a_request(), yard.records.access.principal("ann", 1.0).id, yard.clock.now())
    assert already_serving(row, yard.records.versions.get(STABLE))
    return row


def ensured(yard: BenchYard, submission: Submission) -> StepState:
    ensure_served.fn(submission, yard.records.versions.get(STABLE))
    assert yard.engines.state(STABLE).phase is EnginePhase.READY
    return yard.records.submissions.get(submission.id).steps[-1].state


def test_an_engine_that_is_not_there_is_started(yard: BenchYard, submission: Submission) -> None:
    assert yard.engines.state(STABLE).phase is EnginePhase.ABSENT
    assert ensured(yard, submission) is StepState.DONE


def test_one_that_answers_is_left_alone(yard: BenchYard, submission: Submission) -> None:
    yard.engines.apply(engine_spec(yard.here, yard.records.versions.get(STABLE)))
    before = yard.engines.state(STABLE)
    assert ensured(yard, submission) is StepState.REUSED
    assert yard.engines.state(STABLE) == before


@pytest.mark.parametrize("former", [False, True], ids=["same settings", "other settings"])
def test_one_that_failed_is_started_again(yard: BenchYard, submission: Submission, *, former: bool) -> None:
    spec = engine_spec(yard.here, yard.records.versions.get(STABLE))
    yard.engines.apply(replace(spec, max_model_len=7) if former else spec)
    yard.engines.state(STABLE)
    yard.engines.fail(STABLE, "out of memory")
    yard.engines.fail(STABLE, "")
    assert yard.engines.state(STABLE).phase is EnginePhase.FAILED
    assert ensured(yard, submission) is StepState.DONE


def test_one_that_does_not_come_up_refuses_the_submission_with_the_cause(yard: BenchYard, submission: Submission) -> None:
    yard.engines.fail(STABLE, "the weights cannot be read")
    with pytest.raises(Refused, match="the weights cannot be read"):
        ensure_served.fn(submission, yard.records.versions.get(STABLE))
    assert yard.records.submissions.get(submission.id).steps[-1].state is StepState.FAILED
