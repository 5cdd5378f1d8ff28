"""What every adapter of the EnginePrograms port does, and what happens to programs when a process that they depend on is killed."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.engines import EngineProgram
from core.errors import Fault
from core.ports import EnginePrograms, RunningProgram
from core.ports.clock import SystemClock
from core.settings import read_settings
from serving.engines.fork_connection import ForkConnection
from serving.engines.fork_server import ForkServer
from serving.engines.processes import identify
from serving.engines.programs import ForkedPrograms, SpawnedPrograms
from tests.e2e.harness import within
from wiring import Platform

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "serving/engines/vllm"
MODULE = "tests.equipment.fake_programs"
TENSORIZE = EngineProgram.TENSORIZE
OTHER_USER = 65534


@dataclass
class Spawned:
    """Spawns programs, and counts them."""

    python: str = sys.executable
    started: list[Sequence[str]] = field(default_factory=list)

    def start(self, program: EngineProgram, arguments: Sequence[str]) -> RunningProgram:
        self.started.append(arguments)
        return SpawnedPrograms(self.python, MODULE).start(program, arguments)


@dataclass
class Warm:
    """A fork server of the fake programs, its address, and what is spawned in its place."""

    server: ForkServer
    address: Path
    otherwise: Spawned
    answer_s: float = 20.0

    @property
    def programs(self) -> ForkedPrograms:
        return ForkedPrograms(self.address, self.otherwise, answer_s=self.answer_s)

    @property
    def pid(self) -> int:
        assert self.server._process is not None
        return self.server._process.pid


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ENGINE)]))


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Warm]:
    address = tmp_path / "engines" / "fork-server.json"
    server = ForkServer(sys.executable, MODULE, dict(os.environ), tmp_path / "standby.log", SystemClock(), address_file=address)

    def listens() -> bool:
        server.ensure()
        return address.exists()

    try:
        within(60, listens, "the fork server's address")
        yield Warm(server, address, Spawned())
    finally:
        server.close()
    assert not address.exists()


@pytest.fixture(params=["spawned", "forked"])
def programs(request: pytest.FixtureRequest) -> Iterator[EnginePrograms]:
    if request.param == "spawned":
        yield Spawned()
        return
    warm: Warm = request.getfixturevalue("warm")
    yield warm.programs
    assert warm.otherwise.started == []


def ended(pid: int) -> bool:
    return identify(pid) is None


def pid_of(running: RunningProgram) -> int:
    return int(next(running.lines()))


def test_a_program_gets_its_arguments_and_its_lines_arrive_in_order(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["say", "one", "zwei ü", ""]) as running:
        assert list(running.lines()) == ["one\n", "zwei ü\n", "\n"]
        assert running.wait() == 0


def test_a_line_arrives_while_the_program_runs(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["wait"]) as running:
        assert not ended(pid_of(running))


def test_a_long_argument_arrives_whole(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["length", "x" * 120_000, "y" * 70_000]) as running:
        assert list(running.lines()) == ["[120000, 70000]\n"]


def test_a_program_has_no_input(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["input"]) as running:
        assert list(running.lines()) == ["''\n"]


def test_a_failed_program_has_its_exit_code_and_the_end_of_its_errors(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["fail", "3", "2000000", "the last line"]) as running:
        assert list(running.lines()) == []
        assert running.wait() == 3
        assert running.errors().endswith("x\nthe last line\n")
        assert len(running.errors()) == 1 << 20


def test_an_exception_ends_a_program_with_1_and_its_traceback(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["raise", "the moon is full"]) as running:
        assert running.wait() == 1
        assert "RuntimeError: the moon is full" in running.errors()


def test_a_program_that_a_signal_ends_has_its_negative_number(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["die"]) as running:
        assert (running.wait(), running.wait()) == (-signal.SIGKILL, -signal.SIGKILL)


def test_a_program_is_killed_on_request(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["wait"]) as running:
        pid = pid_of(running)
        running.kill()
        assert list(running.lines()) == []
        assert running.wait() == -signal.SIGKILL
        assert ended(pid)
    running.kill()


def test_leaving_the_context_ends_the_program(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["wait"]) as running:
        pid = pid_of(running)
    assert ended(pid)


def test_two_programs_run_at_once_and_end_apart(programs: EnginePrograms) -> None:
    with programs.start(TENSORIZE, ["wait"]) as first, programs.start(EngineProgram.REFERENCE, ["wait"]) as second:
        one, other = pid_of(first), pid_of(second)
        first.kill()
        assert first.wait() == -signal.SIGKILL
        assert (ended(one), ended(other)) == (True, False)


REQUESTER = """
import sys
from pathlib import Path
from core.engines import EngineProgram
from serving.engines.programs import ForkedPrograms, SpawnedPrograms
spawned = SpawnedPrograms(sys.executable, "tests.equipment.fake_programs")
programs = ForkedPrograms(Path(sys.argv[1]), spawned, answer_s=20) if sys.argv[1] else spawned
with programs.start(EngineProgram.TENSORIZE, ["wait"]) as running:
    print(next(running.lines()), end="", flush=True)
    running.wait()
"""


@pytest.mark.parametrize("kind", ["spawned", "forked"])
def test_a_program_ends_when_the_process_that_started_it_is_killed(request: pytest.FixtureRequest, kind: str) -> None:
    address = str(request.getfixturevalue("warm").address) if kind == "forked" else ""
    with subprocess.Popen([sys.executable, "-c", REQUESTER, address], stdout=subprocess.PIPE, text=True) as requester:
        assert requester.stdout is not None
        pid = int(requester.stdout.readline())
        requester.kill()
    within(20, lambda: ended(pid), "the program's end")


def test_an_interpreter_that_does_not_exist_is_a_fault(tmp_path: Path) -> None:
    for programs in (Spawned("/none/python"), ForkedPrograms(tmp_path / "none", Spawned("/none/python"))):
        with pytest.raises(Fault, match="interpreter /none/python does not exist"):
            programs.start(TENSORIZE, ["say"])


def test_arguments_that_no_process_takes_are_a_fault(warm: Warm) -> None:
    for programs in (Spawned(), warm.programs):
        with pytest.raises(Fault, match="Argument list too long"):
            programs.start(TENSORIZE, ["length", "x" * 3_000_000])


def test_a_program_ends_with_its_fork_server_and_the_next_one_is_spawned(warm: Warm) -> None:
    with warm.programs.start(TENSORIZE, ["wait"]) as running:
        pid = pid_of(running)
        os.kill(warm.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert ended(pid)
    with warm.programs.start(TENSORIZE, ["say", "again"]) as running:
        assert list(running.lines()) == ["again\n"]
    assert warm.otherwise.started == [["say", "again"]]


def test_a_program_ends_when_its_fork_server_is_closed(warm: Warm) -> None:
    with warm.programs.start(TENSORIZE, ["wait"]) as running:
        pid = pid_of(running)
        warm.server.close()
        assert running.wait() == -signal.SIGKILL
        assert ended(pid)


def test_an_engine_forked_beside_a_program_keeps_none_of_its_descriptors(warm: Warm, tmp_path: Path) -> None:
    with warm.programs.start(TENSORIZE, ["wait"]) as running:
        pid_of(running)
        engine = warm.server.fork([], tmp_path / "engine.log", {})
        assert engine is not None
        running.kill()
        assert list(running.lines()) == [], "its output is closed"
        assert running.wait() == -signal.SIGKILL
    assert not ended(engine)
    os.kill(engine, signal.SIGKILL)
    within(20, lambda: ended(engine), "the engine's end")
    assert warm.server.ended(engine) == -signal.SIGKILL


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"socket": "/none"}', '{"socket": "/none", "process": {"pid": 1}}'])
def test_without_a_valid_address_a_program_is_spawned(tmp_path: Path, text: str | None) -> None:
    address, otherwise = tmp_path / "fork-server.json", Spawned()
    if text is not None:
        address.write_text(text)
    with ForkedPrograms(address, otherwise).start(TENSORIZE, ["say", "here"]) as running:
        assert list(running.lines()) == ["here\n"]
    assert len(otherwise.started) == 1


def test_a_program_whose_fork_server_does_not_answer_is_spawned_and_runs_once(warm: Warm, tmp_path: Path) -> None:
    file = tmp_path / "runs"
    os.kill(warm.pid, signal.SIGSTOP)
    with ForkedPrograms(warm.address, warm.otherwise, answer_s=0.2).start(TENSORIZE, ["append", str(file)]) as running:
        assert running.wait() == 0
    os.kill(warm.pid, signal.SIGCONT)
    with warm.programs.start(TENSORIZE, ["say"]) as running:  # the fork server answers in the order of the requests
        assert running.wait() == 0
    assert file.read_text() == "ran\n"
    assert len(warm.otherwise.started) == 1


def test_the_platform_and_the_engines_environment_name_the_same_programs() -> None:
    tree = ast.parse((ENGINE / "seatrial_engine/programs.py").read_text())
    assigned = {ast.unparse(node.target): node.value for node in tree.body if isinstance(node, ast.AnnAssign) and node.value}
    assert set(ast.literal_eval(assigned["PROGRAMS"])) == set(EngineProgram)


@pytest.mark.parametrize(
    ("setting", "adapter"),
    [({}, ForkedPrograms), ({"engines_url": "kubernetes://models"}, SpawnedPrograms), ({"tensorize_python": "/other"}, SpawnedPrograms)],
    ids=["one machine", "cluster", "another interpreter"],
)
def test_programs_are_forked_where_the_fork_server_has_their_interpreter(
    tmp_path: Path, setting: dict[str, str], adapter: type[EnginePrograms]
) -> None:
    settings = read_settings({}, home=tmp_path, **setting)
    assert type(Platform(settings).engine_programs) is adapter


@contextmanager
def as_other_user(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python code, with `sys` and `socket`, as another user. It is started as root: the checkout may be closed to others."""
    program = f"import os, socket, sys\nos.setresuid({OTHER_USER}, {OTHER_USER}, {OTHER_USER})\n{code}"
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run a process as another user")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may write to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@root_only
def test_a_fork_server_of_another_user_is_not_used(open_folder: Path) -> None:
    code = "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('listens', flush=True); sys.stdin.read()"
    path = open_folder / "socket"
    with as_other_user(code, str(path)) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(PermissionError, match=f"it runs as user {OTHER_USER}"):
            ForkConnection(path)
        other.communicate()


@root_only
def test_the_fork_server_refuses_a_client_of_another_user(open_folder: Path) -> None:
    path = open_folder / "socket"
    command = [sys.executable, "-m", MODULE, "--fork-server", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL):  # it ends when its input closes
        within(30, path.exists, "the socket")
        path.chmod(0o666)
        code = "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(4096).decode(), flush=True)"
        with as_other_user(code, str(path)) as other:
            assert "must be a process of user 0" in other.communicate()[0]
