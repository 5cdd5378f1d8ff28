"""The standby's own behaviour, with a small program in vLLM's place; with vLLM: test_vllm.py."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from equipment import wait_until
from seatrial_engine.standby import BadRequestError, read_request

PROGRAM = """
import os, sys, time
from seatrial_engine.standby import stand_by
code, *words = stand_by(sys.argv[1])
print(*words, os.environ.get("GIVEN"), os.getsid(0) == os.getpid(), flush=True)
if code == "wait":
    time.sleep(60)
sys.exit(int(code))
"""


class Standby:
    def __init__(self, folder: Path) -> None:
        self.socket = folder / "standby.sock"
        command = [sys.executable, "-c", PROGRAM, str(self.socket)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = json.loads(self.process.stdout.readline())

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(str(self.socket))
        return connection

    def ask(self, line: bytes) -> Iterator[dict[str, object]]:
        with closing(self.connect()) as connection:
            connection.sendall(line + b"\n")
            yield from map(json.loads, connection.makefile())

    def fork(self, *argv: str, **request: object) -> Iterator[dict[str, object]]:
        return self.ask(json.dumps({"argv": argv, **request}).encode())


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Standby]:
    started = Standby(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def test_each_request_becomes_a_process_with_its_arguments_log_and_environment(standby: Standby, tmp_path: Path):
    for word in ("first", "second"):
        answers = list(standby.fork("0", word, log=str(tmp_path / word), env={"GIVEN": "value"}))
        assert [sorted(answer) for answer in answers] == [["pid"], ["exit"]]
        assert (tmp_path / word).read_text() == f"{word} value True\n"


def test_who_stays_connected_learns_how_the_server_ended(standby: Standby, tmp_path: Path):
    assert list(standby.fork("3", log=str(tmp_path / "log")))[-1] == {"exit": 3}
    answers = standby.fork("wait", log=str(tmp_path / "log"))
    os.kill(next(answers)["pid"], signal.SIGKILL)
    assert next(answers) == {"exit": -signal.SIGKILL}


def test_a_server_outlives_the_standby_and_who_asked_for_it(standby: Standby, tmp_path: Path):
    log = tmp_path / "log"
    answers = standby.fork("wait", "here", log=str(log))
    pid = next(answers)["pid"]
    answers.close()
    wait_until(lambda: log.exists() and "here" in log.read_text(), 10, "the server's line")
    standby.process.send_signal(signal.SIGTERM)
    assert standby.process.wait(10) == 0
    os.kill(pid, 0)  # there, or this raises
    os.kill(pid, signal.SIGKILL)


def test_the_standby_ends_when_who_started_it_is_gone(standby: Standby):
    standby.process.stdin.close()
    assert standby.process.wait(10) == 0
    assert not standby.socket.exists()


def test_a_bad_request_is_answered_and_the_next_one_served(standby: Standby, tmp_path: Path):
    (answer,) = standby.ask(b"{}")
    assert "argv" in answer["error"]
    assert list(standby.fork("0", log=str(tmp_path / "log")))[-1] == {"exit": 0}


def test_a_log_that_cannot_be_opened_is_told_to_who_asked(standby: Standby, tmp_path: Path):
    (answer,) = standby.fork("0", log=str(tmp_path / "none" / "log"))
    assert "none/log" in answer["error"]


def test_the_socket_is_its_owners_only_and_the_standby_has_no_second_thread(standby: Standby):
    assert standby.socket.stat().st_mode & 0o777 == 0o600
    assert standby.ready["threads"] == 1


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{", b'{"argv": "x"}', b'{"argv": [1]}', b'{"argv": [], "env": {"A": 1}}', b'{"argv": [], "log": 1}']
)
def test_what_is_no_request_is_refused(line: bytes):
    with pytest.raises(BadRequestError):
        read_request(line)
