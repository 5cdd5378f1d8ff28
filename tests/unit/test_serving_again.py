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
from tests.equipment.bench_env import BenchEnv, in_bench_env
from tests.equipment.samples import STABLE, a_request


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BenchEnv]:
    with in_bench_env(tmp_path, monkeypatch) as env:
        env.serve(STABLE)
        yield env


@pytest.fixture
def submission(env: BenchEnv) -> Submission:
    """A new submission of the version that serves."""
    row = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
    assert already_serving(row, env.records.versions.get(STABLE))
    return row


def ensured(env: BenchEnv, submission: Submission) -> StepState:
    ensure_served.fn(submission, env.records.versions.get(STABLE))
    assert env.engines.state(STABLE).phase is EnginePhase.READY
    return env.records.submissions.get(submission.id).steps[-1].state


def test_an_engine_that_is_not_there_is_started(env: BenchEnv, submission: Submission) -> None:
    assert env.engines.state(STABLE).phase is EnginePhase.ABSENT
    assert ensured(env, submission) is StepState.DONE


def test_one_that_answers_is_left_alone(env: BenchEnv, submission: Submission) -> None:
    env.engines.apply(engine_spec(env.here, env.records.versions.get(STABLE)))
    before = env.engines.state(STABLE)
    assert ensured(env, submission) is StepState.REUSED
    assert env.engines.state(STABLE) == before


@pytest.mark.parametrize("former", [False, True], ids=["same settings", "other settings"])
def test_one_that_failed_is_started_again(env: BenchEnv, submission: Submission, *, former: bool) -> None:
    spec = engine_spec(env.here, env.records.versions.get(STABLE))
    env.engines.apply(replace(spec, max_model_len=7) if former else spec)
    env.engines.state(STABLE)
    env.engines.fail(STABLE, "out of memory")
    env.engines.fail(STABLE, "")
    assert env.engines.state(STABLE).phase is EnginePhase.FAILED
    assert ensured(env, submission) is StepState.DONE


def test_one_that_does_not_come_up_refuses_the_submission_with_the_cause(env: BenchEnv, submission: Submission) -> None:
    env.engines.fail(STABLE, "the weights cannot be read")
    with pytest.raises(Refused, match="the weights cannot be read"):
        ensure_served.fn(submission, env.records.versions.get(STABLE))
    assert env.records.submissions.get(submission.id).steps[-1].state is StepState.FAILED
