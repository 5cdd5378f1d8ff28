"""Each bad input ends as refused, or as done where only the world was at fault; client, Prefect and database tell the reason."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.ids import SubmissionId
from seatrial.types import Submission
from tests.e2e.harness import FAKES, Stack, with_nan, within
from tests.e2e.test_kills import nothing_in
from tests.equipment.odd_models import POINTER

pytestmark = pytest.mark.e2e
ENVIRON = FAKES


@dataclass(frozen=True)
class Case:
    """A bad model: how it comes to be, the reason that programs read, and words that people must find in the message."""

    name: str
    reason: str
    says: str
    change: Callable[[Path], None] = lambda _folder: None
    order: Callable[[Stack, str], None] = lambda _stack, _model: None


def edited(file: str, **fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        document = json.loads((folder / file).read_text())
        document.update(fields)
        (folder / file).write_text(json.dumps({key: value for key, value in document.items() if value is not None}))

    return change


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def swollen(folder: Path) -> None:
    (folder / "model-00002.safetensors").write_bytes(b"\0" * 5_000_000)


def pointed(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(POINTER)


GATE = [
    Case("missing", "not_found", "org/missing", emptied, lambda stack, model: stack.hub.private.add(model)),
    Case("too-large", "too_large", "limit of 4000000", swollen),
    Case("wrong-bytes", "wrong_bytes", "model.safetensors", order=lambda s, m: s.hub.fail(f"{m}/model.safetensors", "wrong", times=99)),
    Case("nan", "nan_in_weights", "NaN", with_nan),
]
"""One case for each place where the flow ends: at the hub, at the listing, in the download, in the checks."""
REST = [
    Case("gated", "gated", "SEATRIAL_HUB_TOKEN", order=lambda stack, model: stack.hub.gate(model, "hf_somebody_else")),
    Case("empty", "empty_repository", "org/empty", emptied),
    Case("pickle-only", "pickle_only", "pytorch_model.bin", pickled),
    Case("truncated", "truncated_weights", "model.safetensors", truncated),
    Case(
        "unknown-architecture",
        "unknown_architecture",
        "FrobnicatorForCausalLM",
        edited("config.json", architectures=["FrobnicatorForCausalLM"]),
    ),
    Case("no-chat-template", "no_chat_template", "chat_template", edited("tokenizer_config.json", chat_template=None)),
    Case(
        "endless-template",
        "endless_template",
        "template",
        edited("tokenizer_config.json", chat_template="{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"),
    ),
    Case("beyond-embedding", "token_id_beyond_embedding", "resize_token_embeddings", edited("tokenizer_config.json", pad_token="[PAD]")),
    Case("pointer", "pointer_file", "git lfs pull", pointed),
    Case("shapes", "shape_mismatch", "intermediate_size = 512", edited("config.json", intermediate_size=512)),
    Case("remote-code", "remote_code", "auto_map", edited("config.json", auto_map={"AutoModel": "modeling.Evil"})),
]
"""Other reasons from the same places. Unit and contract tests have a case of each."""


@pytest.fixture(scope="module")
def submissions(stack: Stack) -> dict[str, Submission]:
    """One submission for each place where the flow ends, and their ends."""
    return submitted(stack, GATE)


@pytest.fixture(scope="module")
def other_submissions(stack: Stack) -> dict[str, Submission]:
    return submitted(stack, REST)


def submitted(stack: Stack, cases: Sequence[Case]) -> dict[str, Submission]:
    """Submit all cases at once, each to an endpoint of its own, and return their ends."""
    begun: dict[str, str] = {}
    for case in cases:
        model = stack.model(case.name, change=case.change)
        case.order(stack, model)
        begun[case.name] = stack.submit(model, case.name).id
    return {name: stack.finish(submission) for name, submission in begun.items()}


@pytest.mark.parametrize("case", GATE, ids=lambda case: case.name)
def test_a_bad_model_is_refused_with_its_reason_everywhere(stack: Stack, submissions: dict[str, Submission], case: Case):
    expect_refused_everywhere(stack, submissions[case.name], case)


def test_refused_models_leave_nothing_behind(stack: Stack, submissions: dict[str, Submission]):
    assert len(submissions) == len(GATE)
    expect_nothing_left(stack)


@pytest.mark.release
@pytest.mark.parametrize("case", REST, ids=lambda case: case.name)
def test_every_reason_is_shown_everywhere(stack: Stack, other_submissions: dict[str, Submission], case: Case):
    expect_refused_everywhere(stack, other_submissions[case.name], case)


@pytest.mark.release
def test_other_refused_models_leave_nothing_behind(stack: Stack, other_submissions: dict[str, Submission]):
    assert len(other_submissions) == len(REST)
    expect_nothing_left(stack)


def expect_refused_everywhere(stack: Stack, ended: Submission, case: Case) -> None:
    assert (ended.state, ended.reason) == ("refused", case.reason), ended.message
    row = stack.platform.records.submissions.get(SubmissionId(ended.id))
    assert (str(row.state), row.reason, row.message, row.hint) == ("refused", case.reason, ended.message, ended.hint)
    assert case.says in f"{ended.message} {ended.hint}"
    assert ended.hint, "the submitter is not told what to do next"
    shown = stack.cli("status", ended.id)
    assert ended.message[:60] in " ".join((shown.stdout + shown.stderr).split())
    run = within(60, lambda: ended_run(stack, ended.run or ""), "the run's end on Prefect's page, which follows the row's")
    assert (run["state"]["name"], ended.message[:60] in run["state"]["message"]) == ("Refused", True)


def expect_nothing_left(stack: Stack) -> None:
    """Hold while nothing has been served on this stack."""
    here = stack.platform
    assert here.weights.list() == ()
    assert here.engines.list() == ()
    assert [endpoint.stable for endpoint in here.records.endpoints.list()] == [None] * len(here.records.endpoints.list())
    within(30, lambda: nothing_in(here.settings.downloads) and nothing_in(here.settings.scratch), "downloads and scratch are empty")


@pytest.mark.release
def test_a_hub_that_is_down_for_a_minute_is_waited_for(stack: Stack):
    model = stack.model("patience", seed=100)
    stack.hub.down()
    submission = stack.submit(model, "patience")
    within(60, lambda: retried(stack, submission.id), "a retry while the hub is down")
    within(90, lambda: attempts(stack, submission.id) >= 6, "six attempts, about a minute")
    stack.hub.up()
    ended = stack.finish(submission.id, limit_s=200)
    assert ended.state == "serving", ended.message


def test_too_many_requests_and_cut_connections_are_tried_again(stack: Stack, submissions: dict[str, Submission]):
    assert submissions
    model = stack.model("rough-way", seed=101)
    stack.hub.fail(f"api:{model}", "status", status=429, retry_after="1")
    stack.hub.fail(f"{model}/config.json", "status", status=500)
    stack.hub.fail(f"{model}/model.safetensors", "cut", after=100_000)
    stack.hub.fail(f"{model}/model.safetensors", "stall", after=200_000)
    ended = stack.finish(stack.submit(model, "rough-way").id, limit_s=200)
    assert ended.state == "serving", ended.message


def test_a_full_disk_is_told_with_numbers_and_heals_when_there_is_room(stack: Stack, submissions: dict[str, Submission]):
    assert submissions
    model = stack.model("no-room", seed=102)
    with tiny_disk(stack.settings.downloads):
        ended = stack.finish(stack.submit(model, "no-room").id, limit_s=200)
    assert (ended.state, ended.reason) == ("refused", "disk_full"), ended.message
    assert "disk full" in ended.message
    assert "MB free" in ended.message
    assert stack.finish(stack.submit(model, "no-room").id).state == "serving"


def test_a_second_submission_of_the_same_weights_downloads_tensorizes_and_stores_nothing(stack: Stack, submissions: dict[str, Submission]):
    assert submissions
    model = stack.model("twice", seed=103)
    first = stack.finish(stack.submit(model, "twice").id)
    copy = stack.model("twice-under-another-name", seed=103)
    stored, sent = stored_files(stack), content_sent(stack)
    again = stack.finish(stack.submit(model, "twice-again").id)
    assert (first.state, again.state, again.version) == ("serving", "serving", first.version)
    assert content_sent(stack) == sent
    assert {step.name: step.state for step in again.steps if step.name in {"download", "check", "tensorize"}} == {
        "download": "reused",
        "check": "reused",
        "tensorize": "reused",
    }
    assert stack.finish(stack.submit(copy, "twice-copied").id).version == first.version
    assert stored_files(stack) == stored


def content_sent(stack: Stack) -> dict[str, int]:
    """Bytes of files that the hub has sent, its listings left out."""
    return {path: count for path, count in stack.hub.sent.items() if path}


def stored_files(stack: Stack) -> dict[str, int]:
    weights = stack.home / "weights" / "bundles"
    return {
        str(path.relative_to(weights)): path.stat().st_mtime_ns for path in weights.rglob("*") if path.is_file() and path.suffix != ".lock"
    }


def retried(stack: Stack, submission: str) -> bool:
    return attempts(stack, submission) >= 2


def attempts(stack: Stack, submission: str) -> int:
    return max((step.attempt for step in stack.platform.records.submissions.get(SubmissionId(submission)).steps), default=0)


def ended_run(stack: Stack, run: str) -> dict[str, dict[str, str]] | None:
    with stack.prefect() as prefect:
        document: dict[str, dict[str, str]] = prefect.get(f"/flow_runs/{run}").json()
    return document if document["state"]["type"] in {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"} else None


@contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    """Put a disk of 400 KB below the folder. Needs root, as CI is: anywhere else this fails and says so."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.fail(f"a full disk cannot be tried here: mounting a tmpfs needs root ({mounted.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
