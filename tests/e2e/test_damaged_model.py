"""SmolLM2 serves, and damaged copies of it are submitted: the trials refuse them, and without trials the verdict takes them back."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from core.endpoints import RolloutState
from core.ids import EndpointName
from infra.local.traffic import Traffic
from tests.e2e.harness import ROOT, Stack, within
from tests.equipment.real_model import smollm2

pytestmark = [pytest.mark.e2e, pytest.mark.vllm, pytest.mark.release]
ENGINE_PYTHON = ROOT / "serving/engines/vllm/.venv/bin/python"
LIMIT_S = 1500.0
ROLLED_BACK_S = 300.0
PROMOTED_SOON = {
    "SEATRIAL_ROLLOUT_STEP_S": "0.2",
    "SEATRIAL_ROLLOUT_SOAK_S": "0.5",
    "SEATRIAL_ROLLOUT_SYNTHETIC_AFTER_S": "0",
    "SEATRIAL_ROLLOUT_MIN_CONVERSATIONS": "2",
    "SEATRIAL_ROLLOUT_DEADLINE_S": "900",
}
NO_TRIALS = {
    "SEATRIAL_TRIALS_MARGIN": "1",
    "SEATRIAL_TRIALS_MAX_LOOP_RATE": "1",
    "SEATRIAL_TRIALS_MAX_NONSENSE_RATE": "1",
}
REFUSED = ("noise 0.35", "permuted v_proj", "layers swapped", "tokens shuffled")


@pytest.fixture(scope="module")
def trying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with serving_smollm2(tmp_path_factory.mktemp("trying"), PROMOTED_SOON) as stack:
        yield stack


def serving_smollm2(home: Path, environ: dict[str, str]) -> Stack:
    """Return a stack on which SmolLM2 will serve `assistant`; enter it first."""
    return ServingStack(home, environ)


class ServingStack(Stack):
    def __enter__(self) -> ServingStack:
        super().__enter__()
        (self.models / "org" / "smollm2").symlink_to(smollm2())
        ended = self.finish(self.submit("org/smollm2", "assistant").id, LIMIT_S)
        assert ended.state == "serving", (ended.reason, ended.message)
        return self


def damaged(stack: Stack, kind: str) -> str:
    """Put a damaged copy on the hub; return its id."""
    name = kind.replace(" ", "-")
    command = [str(ENGINE_PYTHON), "tests/equipment/damaged_model.py", str(smollm2()), str(stack.models / "org" / name), kind]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return f"org/{name}"


@pytest.mark.parametrize("kind", REFUSED)
def test_a_damaged_copy_is_refused_by_a_trial(trying: Stack, kind: str, capsys: pytest.CaptureFixture[str]):
    ended = trying.finish(trying.submit(damaged(trying, kind), "assistant").id, LIMIT_S)
    with capsys.disabled():
        print(f"\n  {kind}: {ended.state} {ended.reason}: {ended.message}")  # noqa: T201
    assert ended.state == "refused"


def test_a_mildly_damaged_copy_is_told_apart_or_reported_as_inconclusive(trying: Stack, capsys: pytest.CaptureFixture[str]):
    ended = trying.finish(trying.submit(damaged(trying, "noise 0.08"), "mild").id, LIMIT_S)
    with capsys.disabled():
        print(f"\n  noise 0.08: {ended.state} {ended.reason}: {ended.message}")  # noqa: T201
    assert ended.state in {"serving", "refused"}


def test_an_identical_copy_passes(trying: Stack):
    copy = shutil.copytree(smollm2(), trying.models / "org" / "identical")
    (copy / "README.md").write_text((copy / "README.md").read_text() + "\nAn identical copy.\n")
    ended = trying.finish(trying.submit("org/identical", "assistant").id, LIMIT_S)
    assert ended.state == "serving", (ended.reason, ended.message)


def test_without_trials_a_damaged_copy_is_rolled_back_within_five_minutes_of_its_first_live_conversation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = {**PROMOTED_SOON, **NO_TRIALS, "SEATRIAL_ROLLOUT_SYNTHETIC_AFTER_S": "-1", "SEATRIAL_ROLLOUT_STEP_S": "60"}
    home = tmp_path / "home"
    home.mkdir()
    with serving_smollm2(home, settings) as stack:
        stable = stack.platform.records.endpoints.get(EndpointName("assistant")).stable
        application = OpenAI(base_url=f"{stack.settings_url('gateway')}/v1", api_key=stack.secret, max_retries=0, timeout=120)
        submission = stack.submit(damaged(stack, "noise 0.35"), "assistant").id
        within(LIMIT_S, lambda: share(stack) > 0, "the candidate's first share")
        with Traffic(application, "assistant", str(stable)) as traffic:
            within(LIMIT_S, lambda: traffic.report().candidate_conversations > 0, "a live conversation with the candidate")
            begun = time.monotonic()
            within(LIMIT_S, lambda: share(stack) == 0, "the candidate's end")
            seconds = time.monotonic() - begun
        ended = stack.finish(submission, LIMIT_S)
        (rollout, *_) = stack.platform.records.rollouts.find(endpoint=EndpointName("assistant"), limit=1)
    with capsys.disabled():
        print(f"\n  rolled back {seconds:.0f} s after its first live conversation: {rollout.reason}; {traffic.report()}")  # noqa: T201
    assert (ended.state, rollout.state) == ("rolled_back", RolloutState.ROLLED_BACK)
    assert seconds < ROLLED_BACK_S


def share(stack: Stack) -> float:
    found = stack.platform.records.rollouts.find(endpoint=EndpointName("assistant"), limit=1)
    return found[0].share if found and found[0].stable else 0.0
