"""Expected failures of the client's commands end with a message and the documented exit code, never with a traceback."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from core.settings import base_environ
from seatrial import Client, InvalidArgument, NotAuthorised, Unavailable
from seatrial.cli import main
from seatrial.cli.ending import exit_code_of
from seatrial.config import find_connection
from seatrial.local import local_stack
from seatrial.paths import absolute, resolved
from seatrial.types import Logs, read
from tests.equipment.control_env import served

NOWHERE = ("--url", "http://127.0.0.1:9", "--key", "k")
FULL = Path("/dev/full")


def run(*words: str, typed: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(words), prog_name="seatrial", input=typed)


def assert_ended(done: Result, code: int, *said: str) -> None:
    """The command ended with a message and this code, not with an exception."""
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    for words in ("error: ", "next: ", *said):
        assert words in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        (*NOWHERE, "submit", "~nosuchuser/x", "-e", "chat"),
        (*NOWHERE, "bench", "~nosuchuser/x"),
        (*NOWHERE, "bench", "chat", "--suite", "~nosuchuser/x.jsonl"),
        ("--home", "~nosuchuser", "status"),
        ("--home", "~nosuchuser", "settings"),
        ("--home", "~nosuchuser", "--url", "http://127.0.0.1:9", "models"),
    ],
    ids=" ".join,
)
def test_a_home_directory_of_a_user_that_does_not_exist_is_wrong_usage(words: tuple[str, ...]):
    assert_ended(run(*words), 2, "~nosuchuser", "no home directory is known", "absolute path")


def test_a_home_in_the_environment_that_has_no_absolute_path_is_wrong_usage(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEATRIAL_HOME", "~nosuchuser")
    assert_ended(run("status"), 2, "~nosuchuser")


@pytest.mark.parametrize("words", [("submit", "-e", "chat"), ("bench",)], ids=" ".join)
def test_a_loop_of_symbolic_links_is_wrong_usage(tmp_path: Path, words: tuple[str, ...]):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert_ended(run(*NOWHERE, *words, str(tmp_path / "a")), 2, str(tmp_path / "a"), "symbolic link")


@pytest.mark.parametrize(
    "words", [(*NOWHERE, "submit", "./x", "-e", "chat"), (*NOWHERE, "bench", "./x"), ("--home", "x", "status")], ids=" ".join
)
def test_a_relative_path_in_a_removed_working_directory_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert_ended(run(*words), 2, "the working directory cannot be used")
    assert_ended(run(*NOWHERE, "submit", "org/model", "-e", "chat"), 6, "does not answer")


def test_a_path_that_exists_elsewhere_only_is_left_to_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert resolved("./not/here") == tmp_path / "not/here"
    assert absolute("/a/../b") == Path("/a/../b")


def _shell(script: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a shell with its standard streams as `script` sets them."""
    command = ["sh", "-c", f'exec "$@" {script}', "sh", sys.executable, "-c", "from seatrial.cli import main; main()", *words]
    given = {name: value for name, value in base_environ().items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={**given, **environ})


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("--version",), ("submit", "--help"), ("completion", "bash")], ids=" ".join)
def test_output_that_cannot_be_written_ends_with_a_message(words: tuple[str, ...]):
    done = _shell(">/dev/full", *words)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        ["error: the output cannot be written: No space left on device", "next: free disk space, or send the output elsewhere"],
    )


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("words", "code"), [(("nonsense",), 2), (("status", "--watch"), 2), ((*NOWHERE, "whoami"), 6), (("--help",), 1)])
def test_messages_that_cannot_be_written_leave_the_exit_code(words: tuple[str, ...], code: int):
    assert _shell(">/dev/full 2>&1", *words).returncode == code


def test_a_reader_that_is_gone_ends_a_command_without_a_message():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "from seatrial.cli import main; main(['--help'])"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=60, env=base_environ())
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def _nothing() -> list[str]:
    return []


class Caller:
    """A control API that answers the requests of the commands below."""

    def app(self) -> FastAPI:
        app = FastAPI()
        whoami = {"name": "olga", "role": "operator", "key": "key-1", "endpoints": [], "gateway": "http://127.0.0.1:9"}
        app.add_api_route("/v1/whoami", lambda: whoami)
        for path in ("models", "endpoints", "rollouts", "benchmarks", "feedback", "keys", "leaderboard", "submissions"):
            app.add_api_route(f"/v1/{path}", _nothing)
        return app


@pytest.fixture(scope="module")
def control() -> Iterator[str]:
    with served(Caller().app()) as url:
        yield url


LISTS = ("whoami", "models", "endpoints", "rollouts", "leaderboard", "submissions", "keys list", "bench list", "feedback list")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("words", LISTS)
def test_every_command_ends_with_a_message_when_its_output_cannot_be_written(
    control: str, monkeypatch: pytest.MonkeyPatch, words: str, number: int
):
    echo = click.echo

    def failing(message: Any = None, **options: Any) -> None:
        if not options.get("err"):
            raise OSError(number, os.strerror(number))
        echo(message, **options)

    monkeypatch.setattr(click, "echo", failing)
    for given in (words.split(), [*words.split(), "--json"]):
        assert_ended(run("--url", control, "--key", "k", *given), 1, f"the output cannot be written: {os.strerror(number)}")


def test_a_file_that_the_system_refuses_is_named(monkeypatch: pytest.MonkeyPatch):
    def refused(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/srv/x")

    monkeypatch.setattr("seatrial.client.Client.whoami", refused)
    assert_ended(run(*NOWHERE, "whoami"), 1, "/srv/x: Permission denied")


def test_a_character_that_the_encoding_lacks_is_written_as_an_escape(monkeypatch: pytest.MonkeyPatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="latin-1"))
    assert exit_code_of(lambda: click.echo("✓ done")) == 0
    assert written.getvalue() == b"\\u2713 done\n"


@pytest.mark.parametrize("key", ["é", "st-a\nb", "st-a b", "\udcff"])
def test_a_key_that_cannot_be_sent_is_not_authorised_and_not_printed(key: str):
    done = run("--url", "http://127.0.0.1:9", "--key", key, "status")
    assert_ended(done, 3, "printable ASCII")
    assert key not in done.output


def test_a_key_file_that_is_not_text_is_named(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    (tmp_path / "run" / "client.json").write_text(f'{{"control_url": "http://127.0.0.1:8700", "key_file": "{tmp_path / "key"}"}}')
    with pytest.raises(NotAuthorised, match="is not text"):
        find_connection(environ={"SEATRIAL_HOME": str(tmp_path)})


@pytest.mark.parametrize("document", ["[]", "{}", '{"services": [], "supervisor": null}', '{"services": {"a": 1}, "supervisor": null}'])
def test_a_record_of_the_local_stack_of_another_shape_is_left_out(tmp_path: Path, document: str):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stack.json").write_text(document)
    assert local_stack(tmp_path) is None


@pytest.mark.parametrize(("name", "value"), [("SSL_CERT_FILE", "/no/such/file"), ("HTTP_PROXY", "nonsense://x")])
def test_http_settings_of_this_machine_that_cannot_be_used_are_wrong_usage(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    assert_ended(run(*NOWHERE, "status"), 2, "the HTTP client cannot be set up", name)


@pytest.fixture(scope="module", params=[{"hello": 1}, ["hello"], "hello", None], ids=str)
def other_service(request: pytest.FixtureRequest) -> Iterator[str]:
    """A service that answers every request with a document that is not seatrial's."""
    app = FastAPI()
    app.add_api_route("/{path:path}", lambda: request.param, methods=["GET", "POST", "DELETE", "PATCH"])
    with served(app) as url:
        yield url


@pytest.mark.parametrize(
    "words",
    ["status sub-1", "status --problems", "submissions", "models", "whoami", "keys list", "bench show bm-1", "bench list",
     "submit org/model -e chat", "chat chat hi", "feedback give chatcmpl-1 --up"],
)  # fmt: skip
def test_the_answer_of_another_service_is_an_unavailable_platform(other_service: str, words: str):
    assert_ended(run("--url", other_service, "--key", "k", *words.split()), 6, "check that the URL is a seatrial control API")


@pytest.mark.parametrize("document", [["hello"], "hello", 1, None])
def test_a_document_that_is_not_an_object_is_unavailable_also_where_every_field_has_a_default(document: Any):
    with pytest.raises(Unavailable, match="the answer must be Logs"):
        read(Logs, document)


@pytest.mark.parametrize("event", ["{", "[]", "1", '{"choices": [{}], "id": "x"}', '{"choices": [{"delta": {}}]}', '{"error": "x"}'])
def test_an_event_of_another_shape_is_unavailable(monkeypatch: pytest.MonkeyPatch, event: str):
    app = FastAPI()
    app.add_api_route("/v1/chat/completions", lambda: PlainTextResponse(f"data: {event}\n\n"), methods=["POST"])
    with served(app) as url:
        monkeypatch.setenv("SEATRIAL_GATEWAY_URL", url)
        with Client(url, "k") as client, pytest.raises(Unavailable, match="could not be read"):
            list(client.chat("chat", [], stream=True))


def test_text_that_is_not_utf_8_is_wrong_usage(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEATRIAL_GATEWAY_URL", "http://127.0.0.1:9")
    assert_ended(run(*NOWHERE, "chat", "chat", "\udcff"), 2, "cannot be written as UTF-8")
    assert_ended(run(*NOWHERE, "chat", "chat", typed=b"\xff\n"), 2, "not text in UTF-8")
    assert_ended(run(*NOWHERE, "submit", "\udcff", "-e", "chat"), 2, "cannot be written as UTF-8")


def test_a_standard_input_that_cannot_be_read_is_wrong_usage(monkeypatch: pytest.MonkeyPatch):
    def failing() -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    stdin = SimpleNamespace(isatty=lambda: False, readline=failing)
    monkeypatch.setattr("seatrial.cli.chat.sys", SimpleNamespace(stdin=stdin, stdout=None))
    assert_ended(run(*NOWHERE, "chat", "chat"), 2, "standard input cannot be read: Input/output error")


def test_a_closed_standard_input_ends_a_conversation_and_refuses_a_question():
    assert _shell("<&-", *NOWHERE, "chat", "chat").returncode == 0
    asked = _shell("<&-", *NOWHERE, "endpoints", "remove", "chat")
    assert asked.returncode == 2
    assert "give --yes" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_an_invalid_argument_is_a_refusal_for_callers_of_the_sdk():
    with pytest.raises(InvalidArgument) as refused:
        Client("http://127.0.0.1:9", "k", home="~nosuchuser")
    assert (refused.value.reason, refused.value.exit_code) == ("bad_path", 2)
