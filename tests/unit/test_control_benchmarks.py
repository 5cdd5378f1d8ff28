"""Benchmarks through the control API: who may start which, what comes back, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.access import Role
from core.benchmarks import Benchmark, BenchmarkState, Trigger
from core.endpoints import RolloutState
from core.ids import BenchmarkId, EndpointName, SubmissionId, VersionId
from core.submissions import SubmissionState
from tests.equipment.control_env import ControlEnv, control_env
from tests.equipment.rows import put_submission
from tests.equipment.samples import CANDIDATE, CHAT, NOW, STABLE, a_benchmark, a_plan, a_request, a_rollout, a_sample, a_version

OPS, SUB, APP = Role.OPERATOR, Role.SUBMITTER, Role.APPLICATION
PASSES = {"bm-good": 9, "bm-bad": 3}


@pytest.fixture
def env(tmp_path: Path) -> Iterator[ControlEnv]:
    with control_env(tmp_path) as env:
        env.records.versions.put(a_version(id=STABLE))
        env.records.versions.put(a_version(id=CANDIDATE, commit="2" * 40, created_at=NOW + 1))
        env.records.endpoints.ensure(CHAT, NOW)
        submission = env.records.submissions.create(a_request(), env.records.access.principal("sue", NOW).id, NOW)
        put_submission(env.records, submission.id, NOW, version=STABLE, state=SubmissionState.SERVING)
        opened = env.records.rollouts.open(a_rollout(submission=submission.id, candidate=STABLE))
        env.records.rollouts.store(replace(opened, state=RolloutState.PROMOTED))
        yield env


def done(env: ControlEnv, name: str, **fields: Any) -> Benchmark:
    """Enter a benchmark of 12 problems with two answers each, and pack its rows."""
    row = a_benchmark(id=BenchmarkId(name), state=BenchmarkState.DONE, ended_at=NOW + 9, numbers={"pass_at_1": 0.5}, **fields)
    samples = [
        a_sample(problem, index, passed=problem < PASSES[name], text=f"{name} {problem} {index}")
        for problem in range(12)
        for index in (0, 1)
    ]
    env.answers.pack(row.id, samples)
    return env.records.benchmarks.create(row)


def started(env: ControlEnv, role: Role = OPS, name: str | None = None, **body: Any) -> Any:
    return env.client(role, name).post("/v1/benchmarks", json={"target": CHAT, **body})


def test_a_benchmark_is_a_row_and_a_flow_run_at_once(env: ControlEnv):
    answer = started(env, suite="humaneval", samples=20, temperature=[0.2, 0.8], frequency_penalty=[0, 0.5], form="chat")
    made = answer.json()
    assert answer.status_code == 201
    assert (made["state"], made["version"], made["endpoint"], made["suite"], made["form"]) == ("running", STABLE, CHAT, "humaneval", "chat")
    assert [point["key"] for point in made["grid"]] == [f"t{t}-f{f}-p1-m0" for t in ("0.2", "0.8") for f in ("0", "0.5")]
    assert env.runs.benchmarks == [(made["id"], 0, {"target": CHAT, "suite": "humaneval"})]
    assert [entry.action for entry in env.records.audit.find(subject=made["id"])] == ["benchmark"]


@pytest.mark.parametrize("target", [CANDIDATE[:10], "org/model", "org/model@2222"])
def test_a_version_is_named_by_its_id_or_its_model(env: ControlEnv, target: str):
    made = started(env, target=target).json()
    assert (made["version"], made["endpoint"]) == (CANDIDATE, None)


def test_with_prefect_away_the_row_waits_for_reconcile(env: ControlEnv):
    env.runs.away = True
    made = started(env).json()
    assert made["run"] is None
    assert env.records.benchmarks.get(made["id"]).state is BenchmarkState.RUNNING


def test_a_submitter_benchmarks_its_own_versions_and_no_others(env: ControlEnv):
    assert started(env, SUB, "sue").status_code == 201
    refused = started(env, SUB, "bob")
    assert (refused.status_code, refused.json()["error"]["reason"]) == (403, "not_yours")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"target": "nothing-here"}, 404, "no_version"),
        ({"target": "org/unknown"}, 404, "no_version"),
        ({"target": "empty"}, 422, "nothing_served"),
        ({"samples": 0}, 422, "invalid_request"),
        ({"samples": 10_000}, 422, "invalid_request"),
        ({"temperature": []}, 422, "invalid_request"),
        ({"temperature": [3.0]}, 422, "invalid_request"),
        ({"temperature": [i / 40 for i in range(40)], "frequency_penalty": [0, 1]}, 422, "bad_grid"),
        ({"suite": "/etc/passwd"}, 422, "suite_not_found"),
        ({"suite": "/no/such.jsonl"}, 422, "suite_not_found"),
        ({"suite": "../evil"}, 422, "invalid_request"),
        ({"form": "poem"}, 422, "invalid_request"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_before_anything_starts(env: ControlEnv, body: dict[str, Any], status: int, reason: str):
    env.records.endpoints.ensure(EndpointName("empty"), NOW)
    answer = started(env, **body)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)
    assert env.runs.benchmarks == []


def test_one_caller_may_not_start_without_end(env: ControlEnv):
    answers = [started(env).status_code for _ in range(9)]
    assert answers == [201] * 8 + [409]
    assert started(env, SUB, "sue").status_code == 201


def test_problems_show_rates_the_first_failing_check_and_the_baseline(env: ControlEnv):
    done(env, "bm-good", version=CANDIDATE)
    done(env, "bm-bad", baseline=BenchmarkId("bm-good"))
    rows = env.client(SUB).get("/v1/benchmarks/bm-bad/problems").json()
    assert len(rows) == 12
    assert [(row["rate"], row["baseline"]) for row in (rows[0], rows[5], rows[11])] == [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)]
    assert rows[5]["detail"] == "f(5) is 2, not 1"


def test_answers_of_one_problem_can_be_read_made_plain(env: ControlEnv):
    row = done(env, "bm-good")
    env.answers.pack(row.id, [a_sample(1, text="\x1b[31mred", passed=False), a_sample(2)])
    client = env.client(SUB)
    (answer,) = client.get("/v1/benchmarks/bm-good/answers", params={"problem": "suite/1"}).json()
    assert (answer["text"], answer["outcome"]) == ("red", "failed")
    assert len(client.get("/v1/benchmarks/bm-good/answers", params={"limit": 1}).json()) == 1
    assert client.get("/v1/benchmarks/bm-good/answers", params={"problem": "other"}).status_code == 404


def test_two_runs_are_compared_problem_by_problem(env: ControlEnv):
    done(env, "bm-good")
    done(env, "bm-bad")
    found = env.client(SUB).get("/v1/benchmarks/compare", params={"candidate": "bm-bad", "baseline": "bm-good"}).json()["found"]
    assert (found["decision"], found["difference"]) == ("fail", pytest.approx(-0.5))
    assert len(found["lost"]) == 6


def test_runs_of_other_problems_cannot_be_compared(env: ControlEnv):
    done(env, "bm-good")
    done(env, "bm-bad", plan=a_plan(suite="other", suite_digest="9" * 64))
    answer = env.client(SUB).get("/v1/benchmarks/compare", params={"candidate": "bm-bad", "baseline": "bm-good"})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (409, "not_comparable")


def test_a_benchmark_without_answers_says_so(env: ControlEnv):
    env.records.benchmarks.create(a_benchmark())
    answer = env.client(SUB).get("/v1/benchmarks/bm-1/problems")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (404, "no_answers")


def test_power_is_told_both_ways(env: ControlEnv):
    client = env.client(SUB)
    one = client.get("/v1/benchmarks/power", params={"problems": 164, "samples": 20}).json()
    back = client.get("/v1/benchmarks/power", params={"problems": 164, "points": one["points"]}).json()
    assert 2 < one["points"] < 5
    assert back["samples"] == 20
    assert client.get("/v1/benchmarks/power", params={"problems": 164}).status_code == 422


def test_a_running_benchmark_is_cancelled_by_its_asker_once(env: ControlEnv):
    made = started(env, SUB, "sue").json()["id"]
    assert env.client(SUB, "bob").post(f"/v1/benchmarks/{made}/cancel").status_code == 403
    cancelled = env.client(SUB, "sue").post(f"/v1/benchmarks/{made}/cancel").json()
    assert (cancelled["state"], cancelled["reason"]) == ("failed", "cancelled by sue")
    assert env.client(OPS).post(f"/v1/benchmarks/{made}/cancel").status_code == 409


def test_a_gate_is_cancelled_with_its_submission_only(env: ControlEnv):
    env.records.benchmarks.create(a_benchmark(trigger=Trigger.GATE, submission=SubmissionId("sub-1")))
    answer = env.client(OPS).post("/v1/benchmarks/bm-1/cancel")
    assert (answer.status_code, answer.json()["error"]["hint"]) == (409, "seatrial cancel sub-1")


def test_a_submission_says_where_its_gate_is(env: ControlEnv):
    (submission,) = env.records.submissions.find()
    env.records.benchmarks.create(a_benchmark(trigger=Trigger.GATE, submission=submission.id))
    assert env.client(OPS).get(f"/v1/submissions/{submission.id}").json()["benchmark"] == "bm-1"


def test_benchmarks_are_listed_by_endpoint_version_and_state(env: ControlEnv):
    done(env, "bm-good")
    env.records.benchmarks.create(a_benchmark(2, version=CANDIDATE, endpoint=None))
    client = env.client(SUB)

    def listed(**query: str) -> list[str]:
        return [row["id"] for row in client.get("/v1/benchmarks", params=query).json()]

    assert listed() == ["bm-2", "bm-good"]
    assert listed(endpoint=CHAT) == ["bm-good"]
    assert listed(version=CANDIDATE[:8]) == ["bm-2"]
    assert listed(state="done") == ["bm-good"]


def test_a_study_runs_as_a_flow_and_only_an_operator_names_a_ranker(env: ControlEnv):
    done(env, "bm-good")
    made = env.client(SUB).post("/v1/benchmarks/bm-good/studies", json={"best_of": [1, 4]}).json()
    assert env.runs.studies[0][0] == made["study"]
    assert env.runs.studies[0][1]["best_of"] == [1, 4]
    ranked = {"policies": ["ranker"], "ranker_url": "http://ranker/v1", "ranker_model": "judge"}
    assert env.client(SUB).post("/v1/benchmarks/bm-good/studies", json=ranked).status_code == 403
    assert env.client(OPS).post("/v1/benchmarks/bm-good/studies", json=ranked).status_code == 201
    assert env.client(OPS).post("/v1/benchmarks/bm-good/studies", json={"policies": ["ranker"]}).status_code == 422
    env.records.benchmarks.create(a_benchmark())
    assert env.client(OPS).post("/v1/benchmarks/bm-1/studies", json={}).status_code == 409


def test_a_study_that_prefect_could_not_start_waits_and_says_why(env: ControlEnv):
    done(env, "bm-good")
    env.runs.away = True
    made = env.client(SUB).post("/v1/benchmarks/bm-good/studies", json={})
    study = env.client(SUB).get("/v1/benchmarks/bm-good").json()["studies"][made.json()["study"]]
    assert (made.status_code, made.json()["run"]) == (201, None)
    assert (study["state"], study["run"], study["waiting"]["reason"]) == ("running", None, "prefect_unavailable")


def test_a_policy_is_set_field_by_field(env: ControlEnv):
    operator = env.client(OPS)
    first = operator.patch(f"/v1/endpoints/{CHAT}/policy", json={"temperature": 0.3, "on_regression": "rollback"}).json()
    then = operator.patch(f"/v1/endpoints/{CHAT}/policy", json={"temperature": None, "best_of": 4, "policy": "mean_logprob"}).json()
    assert first["policy"] == {
        "temperature": 0.3, "top_p": None, "frequency_penalty": None, "best_of": 1, "policy": "random", "on_regression": "rollback"
    }  # fmt: skip
    assert (then["policy"]["temperature"], then["policy"]["best_of"], then["policy"]["on_regression"]) == (None, 4, "rollback")
    assert env.records.audit.find(subject=CHAT)[0].detail == {
        "temperature": None,
        "best_of": 4,
        "policy": "mean_logprob",
    }


@pytest.mark.parametrize(
    "body", [{"temperature": 9}, {"best_of": 0}, {"best_of": 99}, {"policy": "luck"}, {"top_p": 0}, {"other": 1}], ids=str
)
def test_a_policy_that_no_gateway_can_keep_is_refused(env: ControlEnv, body: dict[str, Any]):
    assert env.client(OPS).patch(f"/v1/endpoints/{CHAT}/policy", json=body).status_code == 422


@pytest.mark.parametrize(
    ("body", "said"),
    [({"policy": "voting"}, "live requests have none"), ({"best_of": 4}, "without being better than one")],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused_with_a_reason_and_is_no_entry_in_the_audit(
    env: ControlEnv, body: dict[str, Any], said: str
):
    answer = env.client(OPS).patch(f"/v1/endpoints/{CHAT}/policy", json=body)
    assert (answer.status_code, said in answer.text, "bad_policy" in answer.text) == (422, True, True)
    assert not env.records.audit.find(subject=CHAT)


def test_a_version_that_is_gone_from_the_list_is_still_shown(env: ControlEnv):
    env.records.benchmarks.create(a_benchmark(version=VersionId("e" * 64)))
    assert env.client(SUB).get("/v1/benchmarks/bm-1").json()["model"] == ""


def test_an_application_sees_no_benchmarks(env: ControlEnv):
    assert env.client(APP).get("/v1/benchmarks").status_code == 403
