"""Every part is killed (SIGKILL) at every step in turn, and the submission ends as if nothing had happened.

One submission per victim: the victim is killed when the first step begins, again when the second begins, and so on to the last.
The engines are fakes that pass the Engines contract suite; everything else is real. `test_real_engine.py` walks some cells on vLLM.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from core.ids import Digest, VersionId
from core.submissions import StepName, StepState
from seatrial.words import Submission
from tests.e2e.harness import FAKE_ENGINE, QUICK, Stack, kill, quietly, within

pytestmark = pytest.mark.e2e
ENVIRON = {**FAKE_ENGINE, **QUICK, "SEATRIAL_MOST_RUNS": "60"}

Killer = Callable[[Stack], list[int]]
VICTIMS: dict[str, Killer] = {
    "flow": lambda stack: stack.flow_processes(),
    "runner": lambda stack: [stack.services()["runner"]],
    "prefect": lambda stack: [stack.services()["prefect"]],
    "mlflow": lambda stack: [stack.services()["mlflow"]],
    "control": lambda stack: [stack.services()["control"]],
    "gateway": lambda stack: [stack.services()["gateway"]],
    "keeper": lambda stack: [stack.services()["keeper"]],
    "engine": lambda stack: stack.engine_processes(),
}
_SEEDS = itertools.count(1)


@pytest.fixture(scope="module")
def serving(stack: Stack) -> Stack:
    """The stack with a stable version on the endpoint, so that every submission here goes through a whole rollout."""
    first = stack.submit(stack.model("steady"), "chat")
    assert stack.finish(first.id).state == "serving"
    return stack


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_at_every_step_it_ends_as_if_nothing_had_happened(serving: Stack, victim: str, capsys: pytest.CaptureFixture[str]):
    model = serving.model(f"{victim}-killed", seed=next(_SEEDS))
    submission = serving.submit(model, "chat")
    vote = cast_vote(serving)
    killed = [kill_at(serving, submission.id, step, victim) for step in StepName]
    ended = serving.finish(submission.id, limit_s=300)
    with capsys.disabled():
        print(f"\n  {victim}: killed {sum(bool(k) for k in killed)} times at {len(killed)} steps, {ended.runs} runs, then {ended.state}")  # noqa: T201
    assert (ended.state, ended.reason) == ("serving", "")
    expect_one_of_everything(serving, ended, model)
    expect_vote(serving, vote)


def kill_at(stack: Stack, submission: str, step: StepName, victim: str) -> list[int]:
    """Kill the victim as soon as `step` has begun (or has passed, where it took no time); return the pids that were killed."""
    records = stack.platform.records
    order = list(StepName)

    def begun() -> bool:
        row = records.submissions.get(submission)  # type: ignore[arg-type]
        reached = [order.index(s.name) for s in row.steps if s.state is not StepState.RETRYING]
        return row.state.ended or (bool(reached) and max(reached) >= order.index(step))

    within(180, begun, f"step {step} of {submission}", pause_s=0.01)
    targets = VICTIMS[victim](stack)
    kill(*targets)
    return targets


def cast_vote(stack: Stack) -> str:
    """Ask, vote, and kill the gateway the moment the vote is acknowledged. Return the completion's id."""
    with httpx.Client(base_url=stack.settings_url("gateway"), headers={"Authorization": f"Bearer {stack.secret}"}, timeout=30) as http:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
        answer = within(60, lambda: answered(http, body), "an answer")
        vote = http.post("/v1/feedback", json={"completion_id": answer["id"], "thumb": "up", "comment": "before the kill"})
    kill(stack.services()["gateway"])
    assert vote.status_code == 200, vote.text
    return str(answer["id"])


def answered(http: httpx.Client, body: dict[str, object]) -> dict[str, object] | None:
    try:
        response = http.post("/v1/chat/completions", json=body)
    except httpx.TransportError:
        return None
    return response.json() if response.status_code == 200 else None


def expect_vote(stack: Stack, completion: str) -> None:
    def found() -> bool:
        with stack.client() as client:
            return bool(quietly(lambda: [f for f in client.feedback.list(endpoint="chat", limit=1000) if f.completion == completion]))

    within(30, found, f"the vote on {completion}")


def expect_one_of_everything(stack: Stack, ended: Submission, model: str) -> None:
    """One version, registered once, published whole; the endpoint serves it; nothing staged, nothing downloading, no second engine."""
    here = stack.platform
    assert ended.version is not None
    endpoint = here.records.endpoints.list()[0]
    assert (endpoint.stable, endpoint.candidate, endpoint.rollout) == (ended.version, None, None)
    assert len(here.records.versions.find(source=model)) == 1
    version = here.records.versions.get(VersionId(ended.version))
    bundles = here.weights.list()
    assert [bundle.digest for bundle in bundles if not bundle.published] == []
    assert here.weights.open(version.tensors).published
    assert here.weights.open(Digest(version.id)).published
    assert registered(stack, version.id) == 1
    within(60, lambda: [s.version for s in here.engines.list()] == [version.id], "only the stable version's engine is left")
    within(60, lambda: nothing_in(here.settings.downloads) and nothing_in(here.settings.scratch), "downloads and scratch are empty")


def registered(stack: Stack, version: VersionId) -> int:
    def search() -> int | None:
        body = {"filter": f"name = 'chat' and tags.`seatrial.version` = '{version}'"}
        try:
            found = httpx.get(f"{stack.settings_url('mlflow')}/api/2.0/mlflow/model-versions/search", params=body, timeout=10)
        except httpx.TransportError:
            return None
        return len(found.json().get("model_versions", [])) if found.status_code == 200 else None

    return int(within(60, search, "MLflow's answer"))


def nothing_in(folder: Path) -> bool:
    return not any(path.is_file() and path.suffix != ".lock" for path in folder.rglob("*"))
