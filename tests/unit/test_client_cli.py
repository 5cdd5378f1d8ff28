"""The command line against the real control API on a loopback port."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.access import Role
from core.ids import EndpointName, SubmissionId
from core.settings import base_environ
from core.submissions import Step, StepName, StepState, SubmissionState
from seatrial import Client, Conflict, NotAuthorised, NotFound, RefusedError, Unavailable
from seatrial.cli import COMMANDS, main
from seatrial.config import find_connection
from tests.equipment.control_env import ControlEnv, control_env, served
from tests.equipment.rows import put_submission
from tests.equipment.samples import CANDIDATE, NOW, a_completion, a_version, a_vote, an_assignment

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlEnv, str]]:
    with control_env(tmp_path_factory.mktemp("cli")) as env, served(env.app) as url:
        yield env, url


@pytest.fixture(scope="module")
def env(platform: tuple[ControlEnv, str]) -> ControlEnv:
    return platform[0]


@pytest.fixture
def run(platform: tuple[ControlEnv, str]) -> Run:
    env, url = platform
    secret = env.secret(Role.OPERATOR, "olga")

    def invoke(*arguments: str, key: str = secret) -> Result:
        return CliRunner().invoke(main, ["--url", url, "--key", key, *arguments], prog_name="seatrial")

    return invoke


@pytest.fixture
def client(platform: tuple[ControlEnv, str]) -> Iterator[Client]:
    with Client(platform[1], platform[0].secret(Role.OPERATOR, "olga"), pause=lambda _seconds: None) as client:
        yield client


def _end(env: ControlEnv, submission: str, state: SubmissionState, **fields: Any) -> None:
    env.records.submissions.step(
        SubmissionId(submission), Step(StepName.DOWNLOAD, StepState.DONE, 2, NOW, NOW + 3, 1.0, "12 MiB \x1b[31mred")
    )
    put_submission(env.records, SubmissionId(submission), NOW, state=state, **fields)


def test_submit_prints_the_id_at_once(run: Run) -> None:
    done = run("submit", "org/model", "--endpoint", "chat")
    assert done.exit_code == 0
    assert done.stdout.startswith("sub-")
    assert "--watch" in done.stderr


def test_a_folder_is_made_absolute(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    done = run("submit", "./model", "-e", "chat", "--json")
    assert json.loads(done.stdout)["model"] == str(tmp_path / "model")


def test_a_watched_submission_that_serves_exits_0_and_says_where_to_chat(run: Run, env: ControlEnv) -> None:
    submission = run("submit", "org/model", "-e", "chat").stdout.strip()
    _end(env, submission, SubmissionState.SERVING)
    done = run("status", submission, "--watch")
    assert done.exit_code == 0
    assert "download: done in 3.0 s (retry 1: 12 MiB" in done.stdout
    assert "seatrial chat chat" in done.stdout
    assert 'base_url="http://127.0.0.1:9/v1"' in done.stdout
    assert "\x1b" not in done.stdout


def test_a_watched_submission_that_is_refused_exits_1_and_says_why(run: Run, env: ControlEnv) -> None:
    submission = run("submit", "org/model", "-e", "chat").stdout.strip()
    _end(env, submission, SubmissionState.REFUSED, reason="nan_in_weights", message="3 tensors hold NaN", hint="upload finite weights")
    done = run("status", submission, "--watch")
    assert done.exit_code == 1
    for said in ("3 tensors hold NaN", "nan_in_weights", "next: upload finite weights"):
        assert said in done.stdout


def test_watching_with_json_gives_one_document_a_line(run: Run, env: ControlEnv) -> None:
    submission = run("submit", "org/model", "-e", "chat").stdout.strip()
    _end(env, submission, SubmissionState.ROLLED_BACK)
    done = run("status", submission, "--watch", "--json")
    assert done.exit_code == 1
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["rolled_back"]


@pytest.mark.parametrize(
    "arguments", [["status"], ["models"], ["endpoints"], ["rollouts"], ["feedback", "list"], ["leaderboard"], ["keys", "list"],
     ["bench", "list"], ["whoami"]],
    ids=" ".join,
)  # fmt: skip
def test_every_list_is_one_json_document_and_something_for_people(run: Run, arguments: list[str]) -> None:
    as_json, for_people = run(*arguments, "--json"), run(*arguments)
    assert (as_json.exit_code, for_people.exit_code) == (0, 0), (as_json.output, for_people.output)
    assert len(as_json.stdout.splitlines()) == 1
    json.loads(as_json.stdout)
    assert for_people.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status", "sub-none"], 4),
        (["models", "a" * 64], 4),
        (["rollouts", "ro-none"], 4),
        (["rollback", "none"], 4),
        (["submit", "a b", "-e", "chat"], 1),
        (["submit", "org/model"], 2),
        (["feedback", "give", "chatcmpl-1"], 2),
        (["nonsense"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_exit_codes_are_stable(run: Run, arguments: list[str], code: int) -> None:
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert done.stderr


def test_an_error_says_what_and_what_next(run: Run) -> None:
    done = run("submit", "/no/such/folder", "-e", "chat")
    first, second = done.stderr.splitlines()
    assert first == "error: /no/such/folder is not a folder on the platform's machine"
    assert second.startswith("next: ")


def test_a_key_that_is_not_known_exits_3_and_is_not_printed(run: Run) -> None:
    done = run("status", key="st-not-known-at-all")
    assert done.exit_code == 3
    assert "st-not-known-at-all" not in done.output


def test_cancelling_twice_is_fine_and_after_the_end_a_conflict(run: Run, env: ControlEnv) -> None:
    submission = run("submit", "org/model", "-e", "chat").stdout.strip()
    assert run("cancel", submission).stdout == f"{submission}: cancelling\n"
    assert run("cancel", submission).exit_code == 0
    _end(env, submission, SubmissionState.CANCELLED)
    assert run("cancel", submission).exit_code == 5


def test_a_platform_that_is_away_exits_6() -> None:
    done = CliRunner().invoke(main, ["--url", "http://127.0.0.1:9", "--key", "k", "status"])
    assert done.exit_code == 6
    assert "seatrial doctor" in done.stderr


def test_a_key_is_shown_once_and_can_be_revoked(run: Run) -> None:
    made = run("keys", "create", "app", "-e", "chat", "--expires-in", "7d")
    secret = made.stdout.strip()
    assert secret.startswith("st-")
    assert run("endpoints", key=secret).exit_code == 0
    identity = made.stderr.split(",")[0]
    assert run("keys", "revoke", identity).exit_code == 0
    assert run("endpoints", key=secret).exit_code == 3
    assert secret not in run("keys", "list", "--json").stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_json(run: Run, name: str) -> None:
    helped = run(name, "--help")
    assert helped.exit_code == 0
    assert "--json" in helped.stdout or name in {"keys", "bench"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(run: Run, shell: str) -> None:
    assert "_SEATRIAL_COMPLETE" in run("completion", shell).stdout


def test_help_is_quick_and_tells_the_exit_codes() -> None:
    environ = {name: value for name, value in base_environ().items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", "from seatrial.cli import main; main(['--help'])"]
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.6, "seconds of CPU: a loaded machine takes longer by the clock"
    assert "Exit codes" in done.stdout


def test_feedback_is_followed_each_once(client: Client, env: ControlEnv) -> None:
    env.records.versions.put(a_version(id=CANDIDATE))
    env.records.conversations.record([an_assignment()], [a_completion(1), a_completion(2)], [a_vote(1), a_vote(2, comment="nice \x1b]0;x")])
    following = client.feedback.follow()
    assert [next(following).completion for _ in range(2)] == ["chatcmpl-1", "chatcmpl-2"]
    env.records.conversations.record([], [a_completion(3)], [a_vote(3)])
    assert next(following).completion == "chatcmpl-3"


def test_watching_waits_for_a_platform_that_restarts_and_gives_up_in_the_end(client: Client) -> None:
    submission = client.submissions.submit("org/model", "chat")
    assert not next(client.submissions.watch(submission.id)).ended
    gone = Client("http://127.0.0.1:9", "k", pause=lambda _seconds: None)
    with pytest.raises(Unavailable):
        next(gone.submissions.watch(submission.id, patience_s=0.0))


def test_an_endpoint_is_removed_after_a_yes(platform: tuple[ControlEnv, str], run: Run, env: ControlEnv) -> None:
    env.records.endpoints.ensure(EndpointName("old"), NOW)
    asked = CliRunner().invoke(main, ["--url", platform[1], "--key", env.secret(Role.OPERATOR), "endpoints", "remove", "old"], input="n\n")
    assert (asked.exit_code, asked.stdout) == (1, "")
    assert run("endpoints", "remove", "old", "--yes").stdout == "old is removed; it served -\n"
    assert run("endpoints", "remove", "old", "--yes").exit_code == 4


def test_errors_of_the_sdk_can_be_told_apart(client: Client, platform: tuple[ControlEnv, str]) -> None:
    with pytest.raises(NotFound):
        client.submissions.get("sub-none")
    with pytest.raises(RefusedError) as refused:
        client.submissions.submit("a b", "chat")
    assert refused.value.reason == "bad_model_id"
    with pytest.raises(NotAuthorised):
        Client(platform[1], "st-wrong").whoami()
    platform[0].records.endpoints.ensure("empty", NOW)  # type: ignore[arg-type]
    with pytest.raises(Conflict):
        client.endpoints.rollback("empty")


def _left(home: Path) -> dict[str, str]:
    (home / "run").mkdir(parents=True)
    (home / "key").write_text("st-left\n")
    document = {"control_url": "http://127.0.0.1:8700", "gateway_url": "http://127.0.0.1:8800", "key_file": str(home / "key")}
    (home / "run" / "client.json").write_text(json.dumps(document))
    return {"SEATRIAL_HOME": str(home)}


def test_what_up_left_is_found(tmp_path: Path) -> None:
    found = find_connection(environ=_left(tmp_path))
    assert (found.url, found.key, found.gateway_url) == ("http://127.0.0.1:8700", "st-left", "http://127.0.0.1:8800")
    assert "st-left" not in repr(found)


def test_the_key_that_up_left_is_never_sent_to_another_platform(tmp_path: Path) -> None:
    with pytest.raises(NotAuthorised):
        find_connection("http://elsewhere", environ=_left(tmp_path))


def test_with_nothing_to_find_the_next_step_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="seatrial up"):
        find_connection(environ={"SEATRIAL_HOME": str(tmp_path)})


def test_a_broken_client_json_is_told(tmp_path: Path) -> None:
    environ = _left(tmp_path)
    (tmp_path / "run" / "client.json").write_text("{")
    with pytest.raises(Unavailable, match=r"client\.json"):
        find_connection(environ=environ)
