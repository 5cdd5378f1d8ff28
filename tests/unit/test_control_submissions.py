"""Submitting, cancelling, rolling back and reading feedback through the control API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.access import Role
from core.conversations import Thumb
from core.endpoints import RolloutState, Verdict
from core.flow_runs import LogLine
from core.ids import EndpointName, RolloutId, SubmissionId, VersionId
from core.submissions import Step, StepName, StepState, SubmissionState
from core.versions import Decision, Finding, TrialKind, TrialReport
from tests.equipment.control_env import ControlEnv, called, control_env
from tests.equipment.rows import put_submission
from tests.equipment.samples import CANDIDATE, CHAT, NOW, STABLE, a_completion, a_rollout, a_version, a_vote, an_assignment

ASK = {"model": "org/model@main", "endpoint": "chat"}


@pytest.fixture
def env(tmp_path: Path) -> Iterator[ControlEnv]:
    with control_env(tmp_path) as env:
        yield env


def _change(env: ControlEnv, submission: str, **fields: Any) -> None:
    put_submission(env.records, SubmissionId(submission), NOW, **fields)


def test_a_submission_is_a_row_and_a_run(env: ControlEnv) -> None:
    made = env.client(Role.SUBMITTER, "ann").post("/v1/submissions", json=ASK)
    assert made.status_code == 201
    body = made.json()
    assert (body["state"], body["submitter"], body["runs"]) == ("queued", "ann", 1)
    assert env.runs.started == [(body["id"], 0, {"submission": body["id"], "model": "org/model@main", "endpoint": "chat"})]
    assert body["links"]["run"] == f"http://prefect/runs/flow-run/{body['run']}"
    assert body["created_at"].endswith("Z")
    assert env.records.audit.find(subject=body["id"])[0].action == "submit"


def test_a_submission_is_taken_in_while_prefect_is_away(env: ControlEnv) -> None:
    env.runs.away = True
    made = env.client(Role.SUBMITTER).post("/v1/submissions", json=ASK)
    assert made.status_code == 201
    assert made.json()["run"] is None


def test_the_same_idempotency_key_is_the_same_submission_with_one_run(env: ControlEnv) -> None:
    client = env.client(Role.SUBMITTER)
    first, second = (client.post("/v1/submissions", json={**ASK, "idempotency_key": "k"}).json() for _ in range(2))
    assert first["id"] == second["id"]
    assert len(env.runs.started) == 1


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        ({"model": "a b", "endpoint": "chat"}, "bad_model_id"),
        ({"model": "org/model", "endpoint": "No Name"}, "bad_endpoint_name"),
        ({"model": "/no/such/folder", "endpoint": "chat"}, "folder_not_found"),
        ({"model": "/" + "x" * 4000, "endpoint": "chat"}, "folder_not_found"),
        ({"model": "/tmp/\u0000", "endpoint": "chat"}, "folder_not_found"),
        ({"model": "org/model"}, "invalid_request"),
        ({"model": "org/model", "endpoint": "chat", "surprise": 1}, "invalid_request"),
    ],
)
def test_a_request_at_fault_is_refused_with_a_reason_and_a_hint(env: ControlEnv, ask: dict[str, object], reason: str) -> None:
    answer = env.client(Role.SUBMITTER).post("/v1/submissions", json=ask)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["reason"]) == (422, "refused", reason)
    assert error["hint"]
    assert env.runs.started == []


def test_a_folder_on_this_machine_can_be_submitted(env: ControlEnv, tmp_path: Path) -> None:
    answer = env.client(Role.SUBMITTER).post("/v1/submissions", json={"model": str(tmp_path), "endpoint": "chat"})
    assert answer.status_code == 201


def test_a_submitter_does_not_see_another_ones_submission(env: ControlEnv) -> None:
    made = env.client(Role.SUBMITTER, "ann").post("/v1/submissions", json=ASK).json()
    bob = env.client(Role.SUBMITTER, "bob")
    assert bob.get("/v1/submissions").json() == []
    for path in ("", "/logs"):
        assert bob.get(f"/v1/submissions/{made['id']}{path}").status_code == 404
    assert bob.post(f"/v1/submissions/{made['id']}/cancel").status_code == 404
    assert len(env.client(Role.OPERATOR).get("/v1/submissions").json()) == 1


def test_the_answer_about_another_ones_submission_is_that_about_a_missing_one(env: ControlEnv) -> None:
    made = env.client(Role.SUBMITTER, "ann").post("/v1/submissions", json=ASK).json()["id"]
    bob = env.client(Role.SUBMITTER, "bob")
    seen, missing = (bob.get(f"/v1/submissions/{submission}").text.replace(submission, "ID") for submission in (made, "sub-none"))
    assert seen == missing


def test_a_refused_submission_tells_why_with_its_trials_numbers(env: ControlEnv) -> None:
    client = env.client(Role.SUBMITTER, "ann")
    made = client.post("/v1/submissions", json=ASK).json()
    env.records.versions.put(a_version(registered_uri="models:/chat/3"))
    finding = Finding("pass_at_1", False, "scores 0.2, stable 0.9", "train on")
    numbers = {"pass_at_1": 0.2, "stable_pass_at_1": 0.9}
    env.records.versions.report(TrialReport(CANDIDATE, TrialKind.BENCHMARK, "k", Decision.FAIL, (finding,), numbers, seconds=2.0, at=NOW))
    env.records.submissions.step(made["id"], Step(StepName.BENCHMARK, StepState.FAILED, 2, NOW, NOW + 2, message="red \x1b[31m text"))
    _change(
        env, made["id"], state=SubmissionState.REFUSED, version=CANDIDATE, reason="benchmark", message="scores too low", hint="train on"
    )
    seen = client.get(f"/v1/submissions/{made['id']}").json()
    assert (seen["state"], seen["reason"], seen["hint"]) == ("refused", "benchmark", "train on")
    assert seen["reports"][0]["numbers"] == numbers
    assert "\x1b" not in seen["steps"][0]["message"]
    assert seen["links"]["model"] == "http://mlflow/#/models/chat/versions/3"


def test_cancelling_stops_the_run_and_twice_changes_nothing(env: ControlEnv) -> None:
    client = env.client(Role.SUBMITTER)
    made = client.post("/v1/submissions", json=ASK).json()
    for _ in range(2):
        assert client.post(f"/v1/submissions/{made['id']}/cancel").json()["state"] == "cancelling"
    assert env.runs.cancelled == [made["run"]]
    assert called(env)


def test_cancelling_is_taken_down_while_prefect_is_away(env: ControlEnv) -> None:
    client = env.client(Role.SUBMITTER)
    made = client.post("/v1/submissions", json=ASK).json()
    env.runs.away = True
    assert client.post(f"/v1/submissions/{made['id']}/cancel").json()["state"] == "cancelling"


def test_cancelling_what_has_ended_is_a_conflict(env: ControlEnv) -> None:
    client = env.client(Role.SUBMITTER)
    made = client.post("/v1/submissions", json=ASK).json()
    _change(env, made["id"], state=SubmissionState.SERVING)
    answer = client.post(f"/v1/submissions/{made['id']}/cancel")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (409, "already_ended")


def test_logs_are_the_runs_and_the_engines(env: ControlEnv) -> None:
    client = env.client(Role.SUBMITTER)
    made = client.post("/v1/submissions", json=ASK).json()
    env.runs.lines = (LogLine("1", NOW, "INFO", "downloading"), LogLine("2", NOW + 5, "INFO", "checking"))
    path = f"/v1/submissions/{made['id']}/logs"
    assert [line["message"] for line in client.get(path).json()["flow"]] == ["downloading", "checking"]
    later = client.get(path, params={"after": "2023-11-14T22:13:25Z"}).json()
    assert [line["message"] for line in later["flow"]] == ["checking"]


def test_logs_with_prefect_away_say_when_to_come_back(env: ControlEnv) -> None:
    client = env.client(Role.SUBMITTER)
    made = client.post("/v1/submissions", json=ASK).json()
    env.runs.away = True
    answer = client.get(f"/v1/submissions/{made['id']}/logs")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


def _rolling(env: ControlEnv, **fields: object) -> str:
    client = env.client(Role.SUBMITTER, "ann")
    made = client.post("/v1/submissions", json=ASK).json()
    env.records.endpoints.ensure(CHAT, NOW)
    for version in (STABLE, CANDIDATE):
        env.records.versions.put(a_version(id=version, commit=version[:40]))
    first = env.records.rollouts.open(a_rollout(id=RolloutId("ro-0"), submission=SubmissionId("sub-0"), candidate=STABLE))
    env.records.rollouts.store(replace(first, state=RolloutState.PROMOTED))
    opened = env.records.rollouts.open(a_rollout(submission=SubmissionId(made["id"]), stable=STABLE))
    if fields:
        env.records.rollouts.store(replace(opened, **fields))  # type: ignore[arg-type]
    return str(made["id"])


def test_rolling_back_turns_the_active_rollout_round(env: ControlEnv) -> None:
    _rolling(env, state=RolloutState.SHIFTING, share=0.25)
    answer = env.client(Role.OPERATOR, "olga").post("/v1/endpoints/chat/rollback")
    rollout = answer.json()["rollout"]
    assert (rollout["state"], rollout["share"], rollout["reason"]) == ("rolling_back", 0.0, "rolled back by olga")
    assert called(env)
    again = env.client(Role.OPERATOR).post("/v1/endpoints/chat/rollback")
    assert again.json()["rollout"]["id"] == rollout["id"]


def test_with_no_rollout_on_its_way_the_previous_version_is_submitted(env: ControlEnv) -> None:
    _rolling(env, state=RolloutState.PROMOTED)
    answer = env.client(Role.OPERATOR).post("/v1/endpoints/chat/rollback")
    submission = answer.json()["submission"]
    assert (submission["model"], submission["note"]) == (f"org/model@{'a' * 40}", "rollback")


def test_rolling_back_without_anything_to_go_back_to_is_a_conflict_with_a_hint(env: ControlEnv) -> None:
    env.records.endpoints.ensure(EndpointName("fresh"), NOW)
    answer = env.client(Role.OPERATOR).post("/v1/endpoints/fresh/rollback")
    assert answer.status_code == 409
    assert "seatrial submit" in answer.json()["error"]["hint"]


def test_removing_an_endpoint_tells_what_it_was_and_has_its_engine_cleared_away_soon(env: ControlEnv) -> None:
    _rolling(env, state=RolloutState.PROMOTED)
    operator = env.client(Role.OPERATOR, "olga")
    assert operator.delete("/v1/endpoints/chat").status_code == 409
    (submission,) = env.records.submissions.find(endpoint=EndpointName("chat"))
    put_submission(env.records, submission.id, NOW, state=SubmissionState.SERVING)
    answer = operator.delete("/v1/endpoints/chat")
    assert (answer.status_code, answer.json()["stable"]) == (200, CANDIDATE)
    assert called(env)
    assert env.records.audit.find(subject="chat", limit=1)[0].action == "remove endpoint"
    assert operator.get("/v1/endpoints/chat").status_code == operator.delete("/v1/endpoints/chat").status_code == 404


def test_an_endpoint_is_removed_also_while_prefect_is_away(env: ControlEnv) -> None:
    env.records.endpoints.ensure(EndpointName("fresh"), NOW)
    env.runs.away = True
    assert env.client(Role.OPERATOR).delete("/v1/endpoints/fresh").status_code == 200
    assert env.records.endpoints.list() == ()


def test_a_verdict_beyond_all_numbers_is_still_json(env: ControlEnv) -> None:
    _rolling(env, state=RolloutState.SHIFTING, verdict=Verdict(Decision.FAIL, "loops", e_value=float("inf"), at=NOW))
    answer = env.client(Role.SUBMITTER).get("/v1/rollouts/ro-1")
    assert answer.json()["verdict"]["e_value"] is None


def test_feedback_is_seen_by_who_it_concerns(env: ControlEnv) -> None:
    submission = _rolling(env)
    _change(env, submission, version=STABLE)
    app = env.records.access.principal("app", NOW)
    vote = a_vote(principal=app.id, thumb=Thumb.DOWN, comment="it \x1b[2J loops")
    env.records.conversations.record([an_assignment()], [a_completion(principal=app.id)], [vote])
    for client, count in (
        (env.client(Role.SUBMITTER, "ann"), 1),
        (env.client(Role.SUBMITTER, "bob"), 0),
        (env.client(Role.OPERATOR), 1),
        (env.client(Role.APPLICATION, "app"), 1),
        (env.client(Role.APPLICATION, "another"), 0),
    ):
        found = client.get("/v1/feedback").json()
        assert len(found) == count
        assert all("\x1b" not in one["comment"] for one in found)
    ann = env.client(Role.SUBMITTER, "ann")
    assert len(ann.get("/v1/feedback", params={"submission": submission}).json()) == 1
    assert ann.get("/v1/feedback", params={"after": "2030-01-01T00:00:00Z"}).json() == []


def test_the_leaderboard_joins_votes_benchmark_and_submitter(env: ControlEnv) -> None:
    submission = _rolling(env)
    _change(env, submission, version=STABLE)
    env.records.versions.report(TrialReport(VersionId(STABLE), TrialKind.BENCHMARK, "k", Decision.PASS, (), {"pass_at_1": 0.75}, at=NOW))
    env.records.conversations.record([an_assignment()], [a_completion()], [a_vote()])
    rows = env.client(Role.SUBMITTER).get("/v1/leaderboard").json()
    assert [(row["submitter"], row["pass_at_1"], row["thumbs_up"], row["completions"]) for row in rows] == [("ann", 0.75, 1, 1)]
