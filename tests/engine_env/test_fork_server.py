"""The fork server's own behaviour, with a small program in vLLM's place; with vLLM: test_vllm.py."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from equipment import wait_until
from seatrial_engine.fork_server import BadRequestError, read_request
from seatrial_engine.manifest import MANIFEST_NAME
from seatrial_engine.tensorize import tensorize

PROGRAM = """
import os, sys, time
from seatrial_engine.fork_server import serve_forks
code, *words = serve_forks(sys.argv[1])
print(*words, os.environ.get("GIVEN"), os.getsid(0) == os.getpid(), flush=True)
if code == "wait":
    time.sleep(60)
sys.exit(int(code))
"""


TENSORIZES = """
import sys
import seatrial_engine.tensorize
from seatrial_engine.fork_server import serve_forks
serve_forks(sys.argv[1])
"""
STEADY = Path(__file__).parents[1] / "equipment/models/steady"


class ForkServer:
    def __init__(self, folder: Path, program: str = PROGRAM) -> None:
        self.socket = folder / "fork_server.sock"
        command = [sys.executable, "-c", program, str(self.socket)]
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as `seatrial_engine.serve` sets it: numpy's threads start at import
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
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

    def run(self, program: str, *argv: str) -> subprocess.CompletedProcess[bytes]:
        """Have a program forked, let it begin, and wait for its end."""
        with closing(self.connect()) as connection, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
            gate, begin = os.pipe()
            line = json.dumps({"program": program, "argv": argv}).encode() + b"\n"
            socket.send_fds(connection, [line], [gate, output.fileno(), errors.fileno()])
            os.close(gate)
            answers = map(json.loads, connection.makefile())
            assert next(answers)["pid"] > 0
            os.write(begin, b"\n")
            os.close(begin)
            code = next(answers)["exit"]
            return subprocess.CompletedProcess(argv, code, os.pread(output.fileno(), 1 << 16, 0), os.pread(errors.fileno(), 1 << 16, 0))


@pytest.fixture(scope="module")
def tensorizing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A fork server that has imported the tensorizer, as the platform's has; vLLM, which it has too, would take seconds more."""
    started = ForkServer(tmp_path_factory.mktemp("tensorizing"), TENSORIZES)
    yield started
    started.process.kill()
    started.process.wait()


@pytest.fixture
def fork_server(tmp_path: Path) -> Iterator[ForkServer]:
    started = ForkServer(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def test_each_request_becomes_a_process_with_its_arguments_log_and_environment(fork_server: ForkServer, tmp_path: Path):
    for word in ("first", "second"):
        answers = list(fork_server.fork("0", word, log=str(tmp_path / word), env={"GIVEN": "value"}))
        assert [sorted(answer) for answer in answers] == [["pid"], ["exit"]]
        assert (tmp_path / word).read_text() == f"{word} value True\n"


def test_who_stays_connected_learns_how_the_server_ended(fork_server: ForkServer, tmp_path: Path):
    assert list(fork_server.fork("3", log=str(tmp_path / "log")))[-1] == {"exit": 3}
    answers = fork_server.fork("wait", log=str(tmp_path / "log"))
    os.kill(next(answers)["pid"], signal.SIGKILL)
    assert next(answers) == {"exit": -signal.SIGKILL}


def test_a_server_outlives_the_fork_server_and_its_client(fork_server: ForkServer, tmp_path: Path):
    log = tmp_path / "log"
    answers = fork_server.fork("wait", "here", log=str(log))
    pid = next(answers)["pid"]
    answers.close()
    wait_until(lambda: log.exists() and "here" in log.read_text(), 10, "the server's line")
    fork_server.process.send_signal(signal.SIGTERM)
    assert fork_server.process.wait(10) == 0
    os.kill(pid, 0)  # there, or this raises
    os.kill(pid, signal.SIGKILL)


def test_the_fork_server_ends_when_its_parent_ends(fork_server: ForkServer):
    fork_server.process.stdin.close()
    assert fork_server.process.wait(10) == 0
    assert not fork_server.socket.exists()


def test_a_bad_request_is_answered_and_the_next_one_served(fork_server: ForkServer, tmp_path: Path):
    (answer,) = fork_server.ask(b"{}")
    assert "argv" in answer["error"]
    assert list(fork_server.fork("0", log=str(tmp_path / "log")))[-1] == {"exit": 0}


def test_a_log_that_cannot_be_opened_is_told_to_who_asked(fork_server: ForkServer, tmp_path: Path):
    (answer,) = fork_server.fork("0", log=str(tmp_path / "none" / "log"))
    assert "none/log" in answer["error"]


def test_the_socket_is_private_and_the_fork_server_has_one_thread(fork_server: ForkServer):
    assert fork_server.socket.stat().st_mode & 0o777 == 0o600
    assert fork_server.ready["threads"] == 1


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"[]", b"{", b'{"argv": "x"}', b'{"argv": [1]}', b'{"argv": [], "env": {"A": 1}}', b'{"argv": [], "log": 1}'),
        *(b'{"argv": [], "program": "os"}', b'{"argv": [], "program": ["tensorize"]}'),
    ],
)
def test_what_is_no_request_is_refused(line: bytes):
    with pytest.raises(BadRequestError):
        read_request(line)


def test_a_fork_server_with_the_tensorizer_has_one_thread(tensorizing: ForkServer):
    assert tensorizing.ready["threads"] == 1


def test_a_forked_tensorization_writes_the_bytes_of_a_spawned_one(tensorizing: ForkServer, tmp_path: Path):
    completed = tensorizing.run("tensorize", str(STEADY), str(tmp_path / "forked"), "--json-progress")
    *progress, done = map(json.loads, completed.stdout.splitlines())
    assert (completed.returncode, completed.stderr) == (0, b"")
    assert progress[-1]["bytes"] == progress[-1]["bytes_total"] == done["bytes"]

    tensorize(STEADY, tmp_path / "here")
    forked, here = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("forked", "here"))
    assert MANIFEST_NAME in forked
    assert forked == here


def test_a_forked_program_reports_a_source_at_fault_on_its_own_standard_error(tensorizing: ForkServer, tmp_path: Path):
    completed = tensorizing.run("tensorize", str(tmp_path), str(tmp_path / "out"))
    assert (completed.returncode, completed.stdout) == (3, b"")
    assert json.loads(completed.stderr)["error"] == "refused"


def test_a_program_without_its_file_descriptors_is_refused(tensorizing: ForkServer):
    (answer,) = tensorizing.ask(b'{"program": "tensorize", "argv": []}')
    assert answer == {"error": "a program needs 3 file descriptors, got 0"}


def test_a_program_that_is_not_in_the_table_is_refused(tensorizing: ForkServer):
    (answer,) = tensorizing.ask(b'{"program": "seatrial_engine.tensorize", "argv": []}')
    assert answer == {"error": "program must be one of tensorize, reference, got 'seatrial_engine.tensorize'"}
