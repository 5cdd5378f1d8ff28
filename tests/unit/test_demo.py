"""The demo ends with a message and a documented exit code, keeps its logs when it fails, and leaves nothing when it succeeds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import httpx2
import openai
import pytest
from click.testing import CliRunner, Result

from core.errors import Conflict, Fault, Refused, Transient
from infra.local import demo as module
from infra.local import demo_real
from infra.local.demo import Place, missing
from infra.local.demo_parts import Background, stack
from infra.models.smollm2 import NotAvailable
from seatrial import Client, errors

REQUEST = httpx2.Request("POST", "http://127.0.0.1:1/v1/chat/completions")
GOOD: dict[str, Any] = {
    "first": {"state": "serving"},
    "second": {"state": "refused", "reason": "benchmark_below_stable"},
    "third": {"state": "rolled_back"},
    "feedback": {"comment": "Friendly, and to the point."},
    "live": {"stable_conversations": 9, "stable_failed": 0, "stable_changed_model": 0, "candidate_conversations": 2},
    "real": {"state": "serving", "message": "", "answers": [{"answer": "Paris"}]},
}


class Stage:
    """A demo whose stack is a folder with a log, and whose main job is `job`."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        self.job: Callable[..., dict[str, Any]] = lambda *_: deepcopy(GOOD)
        self.stopped = 0

    @contextmanager
    def stack(self, home: Path, *_: object) -> Iterator[float]:
        (home / "logs").mkdir(parents=True)
        (home / "logs" / "gateway.log").write_text("what happened\n")
        try:
            yield 1.0
        finally:
            self.stopped += 1

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(module.demo, ["--json", *words])

    def left(self) -> list[str]:
        return sorted(path.name for path in self.temporary.iterdir())


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(tmp_path / "temporary")
    made.temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made.temporary))
    monkeypatch.setattr(module, "stack", made.stack)
    monkeypatch.setattr(module, "hub", lambda _models: _hub())
    monkeypatch.setattr(module, "_place", lambda _home: Place("", "", "", "", ""))
    monkeypatch.setattr(module, "_main_job", lambda *given: made.job(*given))  # noqa: PLW0108 - a test sets the job later
    monkeypatch.setattr(demo_real, "building", lambda: Background(lambda: demo_real.Built(None, 0.0)))
    return made


@contextmanager
def _hub() -> Iterator[str]:
    yield "http://127.0.0.1:1"


def raises(error: BaseException) -> Callable[..., NoReturn]:
    def job(*_: object) -> NoReturn:
        raise error

    return job


def status_error(status: int) -> openai.APIStatusError:
    return openai.APIStatusError("no", response=httpx2.Response(status, request=REQUEST), body=None)


def test_a_success_leaves_nothing_in_the_temporary_folder_and_ends_with_the_document(stage: Stage):
    ended = stage.run()
    document = json.loads(ended.stdout)
    assert (ended.exit_code, stage.left(), stage.stopped) == (0, [], 1)
    assert (document["ok"], document["real"]["answers"][0]["answer"]) == (True, "Paris")


def test_a_home_that_was_given_is_kept(stage: Stage, tmp_path: Path):
    assert stage.run("--home", str(tmp_path / "home")).exit_code == 0
    assert (tmp_path / "home" / "logs" / "gateway.log").exists()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Fault("demo/steady ended as refused", hint="read its log"), 1, "demo/steady ended as refused"),
        (Conflict("the home is in use"), 5, "the home is in use"),
        (Transient("Prefect is unavailable"), 6, "Prefect is unavailable"),
        (errors.Unavailable("the control API does not answer"), 6, "the control API does not answer"),
        (errors.NotAuthorised("the key is revoked"), 3, "the key is revoked"),
        (errors.RefusedError("no such endpoint"), 1, "no such endpoint"),
        (status_error(503), 6, "answered 503"),
        (status_error(401), 3, "answered 401"),
        (status_error(400), 1, "answered 400"),
        (openai.APIConnectionError(request=REQUEST), 6, "connection to the gateway failed"),
        (openai.APIError("the stream broke", REQUEST, body=None), 1, "the stream broke"),
        (OSError(28, "No space left on device", "/home/x"), 1, "No space left on device: /home/x"),
        (subprocess.TimeoutExpired("up", 60), 1, "timed out"),
        (json.JSONDecodeError("bad", "", 0), 1, "JSONDecodeError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_failure_ends_with_one_message_stops_the_stack_and_keeps_the_logs(stage: Stage, error: BaseException, code: int, told: str):
    stage.job = raises(error)
    ended = stage.run()
    (home,) = stage.left()
    assert (ended.exit_code, stage.stopped) == (code, 1)
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert f"logs: {stage.temporary / home / 'logs'}" in ended.stderr
    assert (stage.temporary / home / "logs" / "gateway.log").read_text() == "what happened\n"
    document = json.loads(ended.stdout)
    assert (document["ok"], told in document["error"]["message"]) == (False, True)


def test_a_fault_of_the_demo_itself_keeps_the_logs_too(stage: Stage):
    stage.job = raises(AttributeError("a fault of ours"))
    ended = stage.run()
    assert isinstance(ended.exception, AttributeError)
    assert (len(stage.left()), stage.stopped, "logs:" in ended.stderr) == (1, 1, True)


def test_being_told_to_end_stops_the_stack_as_an_interrupt_does(stage: Stage):
    def job(*_: object) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return deepcopy(GOOD)

    stage.job = job
    ended = stage.run()
    assert (ended.exit_code, stage.stopped) == (130, 1)


def test_a_home_that_cannot_be_written_is_one_message(stage: Stage, tmp_path: Path):
    (tmp_path / "file").touch()
    ended = stage.run("--home", str(tmp_path / "file" / "home"))
    assert (ended.exit_code, "Not a directory" in ended.stderr, "Traceback" in ended.stderr) == (1, True, False)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "steady": lambda document: document["first"].update(state="refused"),
    "feedback": lambda document: document["feedback"].update(comment=""),
    "clumsy": lambda document: document["second"].update(reason="no_chat"),
    "parrot": lambda document: document["third"].update(state="serving"),
    "failed": lambda document: document["live"].update(stable_failed=1),
    "changed their model": lambda document: document["live"].update(stable_changed_model=1),
    "stable version": lambda document: document["live"].update(stable_conversations=0),
    "candidate": lambda document: document["live"].update(candidate_conversations=0),
    "smollm2 ended": lambda document: document["real"].update(state="refused"),
    "smollm2 gave no answer": lambda document: document["real"].update(answers=[]),
}


@pytest.mark.parametrize("word", CHANGES)
def test_each_part_that_did_not_happen_is_named_and_fails_the_demo(stage: Stage, word: str):
    document = deepcopy(GOOD)
    CHANGES[word](document)
    (sentence,) = missing(document)
    assert word in sentence
    stage.job = lambda *_: document
    assert stage.run().exit_code == 1


def test_a_stack_that_does_not_come_up_gives_the_cause_that_it_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "seatrial"
    program.write_text("#!/bin/sh\necho 'Error: gateway ends at once (exit 1): address already in use; its log: x' >&2; exit 1\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with (
        pytest.raises(Fault, match=r"the stack did not come up: gateway ends at once .* address already in use"),
        stack(tmp_path, {}, print),
    ):
        pass


def test_a_model_that_ends_otherwise_than_serving_ends_the_main_job_with_its_reason():
    submission = SimpleNamespace(id="sub-1", state="refused", reason="no_chat", message="no answer", steps=(), reports=(), ended=True)
    submissions = SimpleNamespace(submit=lambda *_: submission, watch=lambda *_, **_more: iter([submission]))
    submitter = cast("Client", SimpleNamespace(submissions=submissions))
    console = cast("Any", SimpleNamespace(print=lambda *_: None))
    with pytest.raises(Fault, match=r"demo/steady ended as refused \(no_chat\): no answer"):
        module._first(Place("", "", "", "", ""), submitter, cast("openai.OpenAI", None), console)


def test_feedback_that_does_not_arrive_is_an_error_after_a_limit():
    submitter = cast("Client", SimpleNamespace(feedback=SimpleNamespace(list=lambda **_: ())))
    with pytest.raises(Fault, match="did not arrive within 0 s"):
        module._feedback(submitter, "chatcmpl-1", limit_s=0)


def test_a_submission_that_does_not_end_is_an_error_after_a_limit():
    submission = SimpleNamespace(id="sub-1", state="starting", steps=(), reports=(), ended=False)
    submissions = SimpleNamespace(submit=lambda *_: submission, watch=lambda *_, **_more: iter([submission]))
    submitter = cast("Client", SimpleNamespace(submissions=submissions))
    with pytest.raises(Fault, match="demo/steady was still starting after 0 s"):
        module._submit(submitter, "demo/steady", "chat", print, limit_s=0)


def test_without_the_package_the_real_model_is_left_out_and_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def fail() -> Path:
        raise NotAvailable("no index", hint="connect to one")

    monkeypatch.setattr(demo_real, "provide", fail)
    told, lines = module._real(Place("", "", "", "", ""), tmp_path, demo_real.building())
    assert told == {"state": "not_available", "message": "no index; connect to one"}
    assert lines == ["[bold yellow]SmolLM2 was left out:[/] no index; connect to one"]
    assert missing({**GOOD, "real": told}) == []


def test_a_broken_build_of_the_real_model_is_not_taken_for_its_absence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def fail() -> Path:
        raise Fault("another digest")

    monkeypatch.setattr(demo_real, "provide", fail)
    with pytest.raises(Fault, match="another digest"):
        module._real(Place("", "", "", "", ""), tmp_path, demo_real.building())


def test_work_in_the_background_raises_where_its_result_is_read():
    assert Background(lambda: 1).result() == 1
    with pytest.raises(Refused, match="no"):
        Background(raises(Refused("no"))).result()


def test_an_interrupted_command_has_no_traceback(tmp_path: Path):
    """The whole command, as a shell runs it: its own process, interrupted while it starts."""
    heard = "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs ignore SIGINT
    code = f"{heard}; from infra.local import demo; demo.published = lambda _: os.kill(os.getpid(), signal.SIGINT); demo.demo()"
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, "Traceback" in ran.stderr, "interrupted" in ran.stderr) == (130, False, True)
