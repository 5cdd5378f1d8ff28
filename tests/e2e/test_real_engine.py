"""The same stack on real vLLM: some cells of the table of kills, restarts, cancelling, and the ledger against the engine's own counters."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import pytest
from openai import OpenAI
from sqlalchemy import create_engine, text

from core.ids import EndpointName, SubmissionId, VersionId
from core.submissions import StepName
from tests.e2e.harness import QUICK, Stack, alive, kill, within
from tests.e2e.test_kills import kill_at

pytestmark = [pytest.mark.e2e, pytest.mark.vllm]
ENVIRON = QUICK
HELLO: list[Any] = [{"role": "user", "content": "Hello! What can you do?"}]


@pytest.fixture(scope="module")
def serving(stack: Stack) -> Stack:
    """The stack after the main job, its flow killed at the tensorization, its engine while it starts and while it is benchmarked."""
    submission = stack.submit(stack.model("steady"), "chat").id
    assert kill_at(stack, submission, StepName.TENSORIZE, "flow")
    kill_at(stack, submission, StepName.START, "supervisor")
    assert kill_at(stack, submission, StepName.BENCHMARK, "engine")
    kill_at(stack, submission, StepName.REGISTER, "flow")
    ended = stack.finish(submission)
    assert ended.state == "serving", ended.message
    return stack


def openai(stack: Stack, secret: str | None = None) -> OpenAI:
    return OpenAI(base_url=f"{stack.settings_url('gateway')}/v1", api_key=secret or stack.secret, max_retries=1, timeout=60)


def test_an_unchanged_openai_client_gets_answers_streamed_and_not(serving: Stack):
    client = openai(serving)
    whole = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=48, temperature=0)
    pieces = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=48, temperature=0, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices)
    assert whole.choices[0].message.content
    assert streamed == whole.choices[0].message.content
    completed = client.completions.create(model="chat", prompt="def ", max_tokens=16, temperature=0)
    parts = client.completions.create(model="chat", prompt="def ", max_tokens=16, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in parts if part.choices) == completed.choices[0].text
    assert (whole.model, [model.id for model in client.models.list()]) == ("chat", ["chat"])


def test_the_ledger_agrees_with_the_engines_own_counters(serving: Stack):
    version = serving.platform.records.endpoints.get(EndpointName("chat")).stable
    assert version is not None
    with serving.client() as operator:
        key = operator.keys.create("ledger", "application", endpoints=["chat"])
    within(10, lambda: knows(serving, key.secret or ""), "the gateway knows the key")
    before = counted_by_engine(serving, version)
    client = openai(serving, key.secret)
    for number in range(10):
        client.chat.completions.create(model="chat", messages=HELLO, max_tokens=8 + number, user=f"ledger-{number}")
        for _ in client.chat.completions.create(model="chat", messages=HELLO, max_tokens=8 + number, stream=True, user=f"stream-{number}"):
            pass
    spent = tuple(after - was for after, was in zip(counted_by_engine(serving, version), before, strict=True))
    assert min(spent) > 0
    within(30, lambda: billed_tokens(serving, key.id) == spent, f"{spent} in the ledger")


def test_a_submission_from_prefects_page_needs_model_and_endpoint_only(serving: Stack):
    model = serving.model("from-prefect", seed=40)
    with serving.prefect() as prefect:
        deployment = prefect.get("/deployments/name/deploy-model/submit").json()
        assert {"model", "endpoint"} <= set(str(deployment["parameter_openapi_schema"]).replace("'", " ").split())
        body = {"parameters": {"request": {"model": model, "endpoint": "from-prefect"}}}
        started = prefect.post(f"/deployments/{deployment['id']}/create_flow_run", json=body)
        assert started.status_code == 201, started.text
        run = started.json()["id"]
        final = within(120, lambda: ended_run(prefect, run), "the end of the run")
        artifacts = prefect.post("/artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [run]}}}).json()
    assert final == "COMPLETED"
    keys = {artifact["key"] for artifact in artifacts}
    assert {"model-org-from-prefect", "model-org-from-prefect-checks", "model-org-from-prefect-benchmark"} <= keys
    assert {"endpoint-from-prefect", "endpoint-from-prefect-rollout"} <= keys
    assert serving.platform.records.endpoints.get(EndpointName("from-prefect")).stable is not None


def test_a_cancelled_submission_leaves_nothing_running(serving: Stack):
    running = set(serving.engine_processes())
    assert running
    submission = serving.submit(serving.model("unwanted", seed=41), "unwanted").id
    records = serving.platform.records
    within(60, lambda: any(s.name is StepName.START for s in records.submissions.get(SubmissionId(submission)).steps), "its engine starts")
    assert serving.cli("cancel", submission).returncode == 0
    ended = serving.finish(submission, limit_s=60)
    assert ended.state == "cancelled"
    within(60, lambda: set(serving.engine_processes()) == running, "its engine is gone")
    within(30, lambda: serving.flow_processes() == [], "no process of the flow is left")
    assert all(bundle.published for bundle in serving.platform.weights.list())


def test_stopped_and_started_again_it_finds_everything_as_it_was(serving: Stack):
    engines = serving.engine_processes()
    assert engines
    serving.down()
    assert [pid for pid in engines if alive(pid)] == []
    assert serving.left_processes() == []
    serving.up()
    within(90, lambda: answers(serving), "the endpoint answers after a restart")


def test_a_killed_up_leaves_its_engines_serving_and_the_next_adopts_them(serving: Stack):
    within(90, lambda: answers(serving), "the endpoint answers")
    engines = sorted(serving.engine_processes())
    assert engines
    assert serving.child is not None
    os.kill(serving.child.pid, signal.SIGKILL)
    serving.child.wait()
    serving.up()
    within(30, lambda: answers(serving), "the endpoint answers")
    assert sorted(serving.engine_processes()) == engines


def test_a_killed_engine_comes_back_by_itself(serving: Stack):
    engines = serving.engine_processes()
    assert engines
    kill(*engines)
    within(60, lambda: not set(engines) & set(serving.engine_processes()) and serving.engine_processes(), "new processes")
    within(90, lambda: answers(serving), "the endpoint answers again")


def test_a_removed_endpoint_answers_404_its_engine_ends_and_mlflow_says_so(serving: Stack):
    within(90, lambda: answers(serving), "the endpoint answers")
    removed = serving.cli("endpoints", "remove", "chat", "--yes")
    assert removed.returncode == 0, removed.stderr
    within(30, lambda: asked(serving).status_code == 404, "the gateway knows it no more")
    for name in {"from-prefect"} & {endpoint.name for endpoint in serving.platform.records.endpoints.list()}:
        serving.cli("endpoints", "remove", name, "--yes")
    within(90, lambda: serving.engine_processes() == [], "no engine is left")
    within(90, lambda: aliases(serving, "chat") == [], "MLflow has no champion")
    assert serving.cli("endpoints", "remove", "chat", "--yes").returncode == 4


def aliases(stack: Stack, model: str) -> list[str]:
    """The aliases that MLflow shows for an endpoint's model."""
    answer = httpx.get(f"{stack.settings_url('mlflow')}/api/2.0/mlflow/registered-models/get", params={"name": model})
    return [str(alias["alias"]) for alias in answer.raise_for_status().json()["registered_model"].get("aliases", [])]


def knows(stack: Stack, secret: str) -> bool:
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.get(f"{stack.settings_url('gateway')}/v1/models", headers=headers).status_code == 200


def asked(stack: Stack) -> httpx.Response:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 8}
    headers = {"Authorization": f"Bearer {stack.secret}"}
    return httpx.post(f"{stack.settings_url('gateway')}/v1/chat/completions", json=body, headers=headers, timeout=30)


def answers(stack: Stack) -> bool:
    try:
        return asked(stack).status_code == 200
    except httpx.TransportError:
        return False


def ended_run(prefect: httpx.Client, run: str) -> str | None:
    kind = str(prefect.get(f"/flow_runs/{run}").json()["state"]["type"])
    return kind if kind in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else None


def counted_by_engine(stack: Stack, version: VersionId) -> tuple[int, int]:
    """vLLM's own counters: tokens in and out since it started."""
    lines = httpx.get(f"{stack.platform.engines.state(version).address}/metrics").text.splitlines()

    def value(name: str) -> int:
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(name))

    return value("vllm:prompt_tokens_total"), value("vllm:generation_tokens_total")


def billed_tokens(stack: Stack, key: str) -> tuple[int, int]:
    engine = create_engine(stack.settings.database_url)
    query = text("SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM usage WHERE key = :key")
    with engine.connect() as connection:
        row = connection.execute(query, {"key": key}).one()
    engine.dispose()
    return int(row[0]), int(row[1])
