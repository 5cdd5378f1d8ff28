"""What people do on Prefect's page, and a stack that is stopped in the middle of a flow: the rows follow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.ids import EndpointName, SubmissionId
from core.submissions import StepName, SubmissionState
from tests.e2e.harness import FAKES, Stack, within

pytestmark = pytest.mark.e2e
ENVIRON = FAKES


def slow_to_start(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "seatrial_fake": {"start_s": 5.0}}))


def test_a_run_that_is_cancelled_on_the_page_ends_its_submission(stack: Stack):
    engines, weights = set(stack.engine_processes()), stack.platform.weights.list()
    submission = stack.submit(stack.model("cancel-me", seed=60, change=slow_to_start), "cancel-me").id
    in_step(stack, submission, StepName.START)
    set_state(stack, run_of(stack, submission), "CANCELLING", "Cancelling")
    ended = stack.finish(submission, limit_s=90)
    assert (ended.state, ended.reason) == ("cancelled", "cancelled")
    within(30, lambda: set(stack.engine_processes()) == engines, "its engine is gone")
    assert stack.platform.weights.list() == weights


def test_a_run_that_is_retried_on_the_page_after_a_refusal_is_a_new_submission(stack: Stack):
    model = stack.model("come-back", seed=61)
    stack.hub.private.add(model)
    refused = stack.finish(stack.submit(model, "come-back").id)
    assert refused.reason == "not_found"
    assert run_named(stack, refused.run or "") == "org/come-back -> come-back"
    assert "refused" in artifact(stack, "model-org-come-back")
    stack.hub.private.remove(model)
    within(60, lambda: kind_of(stack, refused.run or "") == "FAILED", "the page shows the failed run")  # its row is ended a little earlier
    set_state(stack, refused.run or "", "SCHEDULED", "AwaitingRetry")
    within(90, lambda: served(stack, "come-back"), "the retried run brings the model")
    states = sorted(str(row.state) for row in stack.platform.records.submissions.find(endpoint=EndpointName("come-back")))
    assert states == ["refused", "serving"]
    within(30, lambda: "| announce | done |" in artifact(stack, "model-org-come-back"), "the newest page of the model shows that it serves")
    assert "seatrial chat come-back" in artifact(stack, "endpoint-come-back")
    tasks, lines = steps_and_log(stack, refused.run or "")
    assert {"resolve", "roll out", "announce"} <= tasks
    assert any(line.startswith("latency: time to first token ") for line in lines)
    assert not any(stack.secret in line or str(stack.home) in line for line in lines), "no key and no path is logged"


def test_a_stack_that_is_stopped_in_the_middle_goes_on_when_it_is_started_again(stack: Stack):
    submission = stack.submit(stack.model("half-way", seed=62, change=slow_to_start), "half-way").id
    in_step(stack, submission, StepName.START)
    stack.down()
    assert stack.left_processes() == []
    stack.up()
    assert stack.finish(submission, limit_s=120).state == "serving"


def in_step(stack: Stack, submission: str, step: StepName) -> None:
    """Wait until a submission is in a step; one that ended before it fails at once."""
    records = stack.platform.records.submissions

    def look() -> bool:
        row = records.get(SubmissionId(submission))
        assert not row.state.ended, f"it ended before its step {step}: {row.state} {row.reason} {row.message}"
        return step in [found.name for found in row.steps]

    within(120, look, f"step {step}")


def run_named(stack: Stack, run: str) -> str:
    with stack.prefect() as prefect:
        return str(prefect.get(f"/flow_runs/{run}").raise_for_status().json()["name"])


def artifact(stack: Stack, key: str) -> str:
    """Return the newest text under a key, "" where there is none yet."""
    with stack.prefect() as prefect:
        found = prefect.post("/artifacts/latest/filter", json={"artifacts": {"key": {"any_": [key]}}}).raise_for_status().json()
    return str(found[0]["data"]) if found else ""


def steps_and_log(stack: Stack, run: str) -> tuple[set[str], list[str]]:
    """Return the names of a run's task runs, and what it logged."""
    with stack.prefect() as prefect:
        tasks = prefect.post("/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}}).raise_for_status().json()
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        lines = prefect.post("/logs/filter", json=body).raise_for_status().json()
    return {task["name"] for task in tasks}, [line["message"] for line in lines]


def run_of(stack: Stack, submission: str) -> str:
    return stack.platform.records.submissions.get(SubmissionId(submission)).flow_run or ""


def served(stack: Stack, endpoint: str) -> bool:
    found = stack.platform.records.submissions.find(endpoint=EndpointName(endpoint), states=[SubmissionState.SERVING])
    return bool(found)


def kind_of(stack: Stack, run: str) -> str:
    """Return the run's state as the page shows it."""
    with stack.prefect() as prefect:
        return str(prefect.get(f"/flow_runs/{run}").raise_for_status().json()["state"]["type"])


def set_state(stack: Stack, run: str, kind: str, name: str) -> None:
    body = {"state": {"type": kind, "name": name, "message": "from the page"}, "force": True}
    with stack.prefect() as prefect:
        prefect.post(f"/flow_runs/{run}/set_state", json=body).raise_for_status()
