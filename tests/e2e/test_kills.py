"""Processes are killed (SIGKILL) at every step in turn, and the submission ends as if nothing had happened.

One submission per victim: the victim is killed when the first step begins, again when the second begins, and so on to the last. In the
gate that is every step for a flow's process, and one step of each part of a deployment for the services.
The engines are fakes that pass the Engines contract suite; everything else is real. `test_real_engine.py` walks some cells on vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from core.ids import Digest, EndpointName, SubmissionId, VersionId
from core.submissions import StepName, StepState
from seatrial.types import Submission
from tests.e2e.harness import FAKE_ENGINE, QUICK, Stack, kill, quietly, within

pytestmark = pytest.mark.e2e
ENVIRON = {**FAKE_ENGINE, **QUICK, "SEATRIAL_MOST_RUNS": "60"}

Killer = Callable[[Stack, str], list[int]]


def service(name: str) -> Killer:
    """A service of the stack; one that is just being started again is waited for."""
    return lambda stack, _submission: [within(60, lambda: stack.services().get(name), f"{name} runs")]


def flow(stack: Stack, submission: str) -> list[int]:
    """The flow's process. After a kill, the next run's process is waited for, unless the submission has ended by then."""
    records = stack.platform.records

    def there() -> bool:
        return bool(stack.flow_processes()) or records.submissions.get(SubmissionId(submission)).state.ended

    within(240, there, f"a flow process of {submission}", pause_s=0.01)
    return stack.flow_processes()


VICTIMS: dict[str, Killer] = {
    "flow": flow,
    "gateway": service("gateway"),
    "engine": lambda stack, _submission: stack.engine_processes(),
    "supervisor": service("engines"),
    "mlflow": service("mlflow"),
    "control": service("control"),
    "runner": service("runner"),
    "prefect": service("prefect"),
}
SERVICES = (("runner",), ("prefect",), ("gateway", "engine", "supervisor"), ("mlflow", "control"))
"""Victims that are walked at the same time, each with a submission of its own; the others bear the kills too."""
SOME_STEPS = (StepName.TENSORIZE, StepName.START, StepName.BENCHMARK, StepName.REGISTER, StepName.ROLL_OUT)


@dataclass(frozen=True)
class Walk:
    """What became of one submission whose victim was killed at each of the steps."""

    victim: str
    steps: tuple[StepName, ...]
    model: str
    kills: int
    ended: Submission
    vote: str
    seconds: float


@pytest.fixture(scope="module")
def served(stack: Stack) -> Stack:
    """Every victim's endpoint has a stable version, so that each submission goes through a rollout."""
    serve_everywhere(stack, stack.model("steady"))
    return stack


@pytest.fixture(scope="module")
def walks(served: Stack) -> dict[str, Walk]:
    """A flow killed at every step, and each service at some."""
    return walk_waves(served, (("flow",),), tuple(StepName)) | walk_waves(served, SERVICES, SOME_STEPS)


@pytest.fixture(scope="module")
def longer_walks(served: Stack) -> dict[str, Walk]:
    """Each service killed at every step."""
    return walk_waves(served, SERVICES, tuple(StepName))


def walk_waves(stack: Stack, waves: tuple[tuple[str, ...], ...], steps: tuple[StepName, ...]) -> dict[str, Walk]:
    done: dict[str, Walk] = {}
    for wave in waves:
        with ThreadPoolExecutor(len(wave)) as pool:
            done |= {walk.victim: walk for walk in pool.map(lambda victim: walk_steps(stack, victim, steps), wave)}
    return done


def serve_everywhere(stack: Stack, model: str) -> None:
    """Bring a model to every victim's endpoint: to the first one alone, which stores the weights, then to two at a time."""

    def state(victim: str) -> str:
        return stack.finish(stack.submit(model, victim).id).state

    first, *others = VICTIMS
    with ThreadPoolExecutor(2) as pool:
        assert {state(first), *pool.map(state, others)} == {"serving"}


@pytest.mark.parametrize("victim", VICTIMS)
def test_with_a_process_killed_at_each_step_a_submission_ends_as_if_nothing_had_happened(
    stack: Stack, walks: dict[str, Walk], victim: str, capsys: pytest.CaptureFixture[str]
):
    expect_unharmed(stack, walks[victim], capsys)


def test_afterwards_only_what_serves_is_left(stack: Stack, walks: dict[str, Walk]):
    here = stack.platform
    serving = {VersionId(walk.ended.version or "") for walk in walks.values()}
    within(60, lambda: {state.version for state in here.engines.list()} == serving, "only the stable versions' engines are left")
    within(60, lambda: nothing_in(here.settings.downloads) and nothing_in(here.settings.scratch), "downloads and scratch are empty")
    assert [bundle.digest for bundle in here.weights.list() if not bundle.published] == []


@pytest.mark.release
@pytest.mark.parametrize("victim", [victim for wave in SERVICES for victim in wave])
def test_with_a_service_killed_at_every_step_a_submission_ends_as_if_nothing_had_happened(
    stack: Stack, longer_walks: dict[str, Walk], victim: str, capsys: pytest.CaptureFixture[str]
):
    expect_unharmed(stack, longer_walks[victim], capsys)


def expect_unharmed(stack: Stack, walk: Walk, capsys: pytest.CaptureFixture[str]) -> None:
    victim = walk.victim
    with capsys.disabled():
        print(f"\n  {victim}: {walk.kills} processes killed, {walk.ended.runs} runs, {walk.ended.state}, {walk.seconds:.0f} s")  # noqa: T201
    assert walk.kills >= (len(walk.steps) if victim != "engine" else 3), "the victim was hardly there to be killed"
    assert (walk.ended.state, walk.ended.reason) == ("serving", "")
    expect_one_of_everything(stack, walk.ended, walk.model, victim)
    expect_vote(stack, walk.vote, victim)


def walk_steps(stack: Stack, victim: str, steps: tuple[StepName, ...]) -> Walk:
    begun = time.monotonic()
    name, seed = f"{victim}-killed-{len(steps)}", 2 + list(VICTIMS).index(victim) + 10 * len(steps)
    submission = stack.submit(stack.model(name, seed=seed), victim)
    vote = cast_vote(stack, victim)
    kills = sum(len(kill_at(stack, submission.id, step, victim)) for step in steps)
    ended = stack.finish(submission.id, limit_s=300)
    return Walk(victim, steps, f"org/{name}", kills, ended, vote, time.monotonic() - begun)


def kill_at(stack: Stack, submission: str, step: StepName, victim: str) -> list[int]:
    """Kill the victim as soon as `step` has begun (or has passed, where it took no time); return the pids that were killed."""
    records = stack.platform.records
    order = list(StepName)

    def begun() -> bool:
        row = records.submissions.get(submission)  # type: ignore[arg-type]
        reached = [order.index(s.name) for s in row.steps if s.state is not StepState.RETRYING]
        return row.state.ended or (bool(reached) and max(reached) >= order.index(step))

    within(240, begun, f"step {step} of {submission}", pause_s=0.01)
    targets = VICTIMS[victim](stack, submission)
    kill(*targets)
    return targets


def cast_vote(stack: Stack, endpoint: str) -> str:
    """Ask, vote, and kill the gateway the moment the vote is acknowledged. Return the completion's id."""
    with httpx.Client(base_url=stack.settings_url("gateway"), headers={"Authorization": f"Bearer {stack.secret}"}, timeout=30) as http:
        body = {"model": endpoint, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16}
        answer = within(60, lambda: answered(http, body), "an answer")
        vote = {"completion_id": answer["id"], "thumb": "up", "comment": "before the kill"}
        within(60, lambda: acknowledged(http, vote), "the vote's acknowledgement")
    kill(within(60, lambda: stack.services().get("gateway"), "the gateway runs"))
    return str(answer["id"])


def acknowledged(http: httpx.Client, vote: dict[str, object]) -> bool:
    try:
        return http.post("/v1/feedback", json=vote).status_code == 200
    except httpx.TransportError:
        return False


def answered(http: httpx.Client, body: dict[str, object]) -> dict[str, object] | None:
    try:
        response = http.post("/v1/chat/completions", json=body)
    except httpx.TransportError:
        return None
    return response.json() if response.status_code == 200 else None


def expect_vote(stack: Stack, completion: str, endpoint: str) -> None:
    def found() -> bool:
        with stack.client() as client:
            return bool(quietly(lambda: [f for f in client.feedback.list(endpoint=endpoint, limit=1000) if f.completion == completion]))

    within(30, found, f"the vote on {completion}")


def expect_one_of_everything(stack: Stack, ended: Submission, model: str, endpoint: str) -> None:
    """One version, registered once, published whole; the endpoint serves it."""
    here = stack.platform
    assert ended.version is not None
    row = here.records.endpoints.get(EndpointName(endpoint))
    assert (row.stable, row.candidate, row.rollout) == (ended.version, None, None)
    assert len(here.records.versions.find(source=model)) == 1
    version = here.records.versions.get(VersionId(ended.version))
    assert here.weights.open(version.tensors).published
    assert here.weights.open(Digest(version.id)).published
    assert registered(stack, version.id, endpoint) == 1


def registered(stack: Stack, version: VersionId, endpoint: str) -> int:
    def search() -> int | None:
        body = {"filter": f"name = '{endpoint}' and tags.`seatrial.version` = '{version}'"}
        try:
            found = httpx.get(f"{stack.settings_url('mlflow')}/api/2.0/mlflow/model-versions/search", params=body, timeout=10)
        except httpx.TransportError:
            return None
        return len(found.json().get("model_versions", [])) if found.status_code == 200 else None

    return int(within(60, search, "MLflow's answer"))


def nothing_in(folder: Path) -> bool:
    return not any(path.is_file() and path.suffix != ".lock" for path in folder.rglob("*"))
