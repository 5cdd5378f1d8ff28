"""The step that starts a candidate's engine tells the submitter its context and its cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core.submissions import StepName, SubmissionState
from tasks import start as starting
from tests.equipment.bench_env import in_bench_env
from tests.equipment.rows import put_submission
from tests.equipment.samples import CANDIDATE, CHAT, a_request, a_version


def test_the_plan_of_the_engine_is_in_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_bench_env(tmp_path, monkeypatch) as env:
        monkeypatch.setattr("tasks.start.harness.warm", lambda: None)
        env.records.endpoints.ensure(CHAT, env.clock.now())
        version = a_version(id=CANDIDATE)
        env.records.versions.put(replace(version, needs=replace(version.needs, kv_bytes_per_token=4096)))
        made = env.records.submissions.create(a_request(), env.records.access.principal("ann", 1.0).id, env.clock.now())
        row = put_submission(env.records, made.id, env.clock.now(), state=SubmissionState.RUNNING, version=CANDIDATE)
        rollout = starting.start.fn(row, env.records.versions.get(CANDIDATE))
        after = env.records.submissions.get(row.id)
    assert (after.rollout, rollout.candidate) == (rollout.id, CANDIDATE)
    (step,) = (step for step in after.steps if step.name is StepName.START)
    assert step.message.startswith(f"engine of {CANDIDATE[:12]} is ready; ")
    assert "tokens" in step.message
    assert "KV cache" in step.message
    assert step.detail["plan"] in step.message
