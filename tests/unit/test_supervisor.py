"""The supervisor of the embedded stack, with small stand-ins for its services."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from core.errors import Conflict, Fault
from core.ports.clock import SystemClock, VirtualClock
from core.settings import read_settings
from infra.local import commands, earlier_stack, ports, stack
from infra.local.supervisor import Event, Patience, PortTaken, Service, Supervisor
from serving.engines.processes import Identity, identify, members

ROOT = Path(__file__).resolve().parents[2]
SLEEP = "import threading; threading.Event().wait(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {SLEEP}"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True); {SLEEP}"


class Stack:
    """A supervisor whose reports are kept."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.seen: list[tuple[str, Event, str]] = []
        self.running: dict[str, Identity] = {}

    def service(self, name: str, code: str, **more: object) -> Service:
        folder = self.home / name
        made = Service(name, (sys.executable, "-c", code), dict(os.environ), lambda _pid: True, self.home / f"{name}.log", folder)
        return replace(made, **more)  # type: ignore[arg-type]

    def supervise(self, *services: Service, stop_s: float = 5.0, start_s: float = 10.0) -> Supervisor:
        return Supervisor(
            services,
            SystemClock(),
            lambda service, event, detail: self.seen.append((service.name, event, detail)),
            Patience(start_s=start_s, stop_s=stop_s),
            self.running.update,
        )

    def named(self, event: Event) -> list[str]:
        return [name for name, seen, _detail in self.seen if seen is event]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    yield made
    for folder in tmp_path.iterdir():
        assert members(folder, None) == (), "nothing is left"


def until(holds: Callable[[], bool], limit_s: float = 10.0) -> None:
    give_up = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < give_up
        threading.Event().wait(0.02)


def test_services_start_after_what_they_need_and_stop_before_it(up: Stack) -> None:
    opened = threading.Event()
    base = up.service("base", SLEEP, ready=lambda _pid: opened.is_set())
    beside = up.service("beside", SLEEP)
    top = up.service("top", SLEEP, needs=("base",))
    supervisor = up.supervise(top, base, beside)
    step_until(supervisor, lambda: up.named(Event.READY) == ["beside"])
    assert "top" not in up.running
    opened.set()
    assert supervisor.start(threading.Event())
    assert up.named(Event.READY) == ["beside", "base", "top"]
    supervisor.stop(threading.Event())
    assert sorted(up.named(Event.STOPPED)) == ["base", "beside", "top"]


def test_a_crashed_service_is_restarted_and_its_children_go_with_it(up: Stack) -> None:
    supervisor = up.supervise(up.service("parent", PARENT))
    supervisor.start(threading.Event())
    until(lambda: len(members(up.home / "parent", None)) == 2)
    first = up.running["parent"]
    os.kill(first.pid, signal.SIGKILL)
    step_until(supervisor, lambda: up.named(Event.CRASHED) == ["parent"])
    step_until(supervisor, lambda: up.running["parent"] != first)
    until(lambda: len(members(up.home / "parent", None)) == 2)
    assert up.seen[-1][2].startswith("killed by SIGKILL") or up.seen[-1][1] is Event.READY
    supervisor.stop(threading.Event())


def test_a_service_that_never_comes_up_ends_the_start_with_the_end_of_its_log(up: Stack) -> None:
    supervisor = up.supervise(up.service("broken", "raise SystemExit('the anchor is stuck')", ready=lambda _pid: False))
    with pytest.raises(Fault, match=r"broken ended 3 times before it was ready \(exit code 1: the anchor is stuck\)"):
        supervisor.start(threading.Event())
    supervisor.stop(threading.Event())


def test_a_service_whose_port_another_process_took_names_port_and_holder(up: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        supervisor = up.supervise(up.service("late", "raise SystemExit(1)", ready=lambda _pid: False, port=port))
        with pytest.raises(PortTaken, match=rf"port {port}: address already in use by process {os.getpid()}") as raised:
            supervisor.start(threading.Event())
    assert (raised.value.service, raised.value.port) == ("late", port)
    supervisor.stop(threading.Event())


def test_a_crash_is_reported_with_its_signal_and_the_last_exception(up: Stack) -> None:
    said = 'Traceback (most recent call last):\n  File "x", line 1\nOSError: no room\n'
    code = f"import os, sys; sys.stderr.write({said!r}); sys.stderr.flush(); os.abort()"
    supervisor = up.supervise(up.service("broken", code, ready=lambda _pid: False))
    with pytest.raises(Fault, match=r"killed by SIGABRT .*: OSError: no room"):
        supervisor.start(threading.Event())
    supervisor.stop(threading.Event())
    assert [detail for _name, event, detail in up.seen if event is Event.CRASHED and "killed by SIGABRT" in detail]


def test_a_service_that_is_not_ready_in_time_ends_the_start(up: Stack) -> None:
    supervisor = up.supervise(up.service("slow", SLEEP, ready=lambda _pid: False), start_s=0.3)
    with pytest.raises(Fault, match="slow was not ready after"):
        supervisor.start(threading.Event())
    supervisor.stop(threading.Event())


def test_a_service_that_hangs_while_it_starts_is_reported_once_with_its_log(up: Stack) -> None:
    clock = VirtualClock()
    slow = up.service("slow", SLEEP, ready=lambda _pid: False)
    supervisor = replace(up.supervise(slow, up.service("quick", SLEEP), start_s=300.0), clock=clock)
    for _ in range(4):
        supervisor.step()
        clock.wait(6.0)
    assert up.named(Event.WAITING) == []
    for _ in range(20):
        supervisor.step()
        clock.wait(6.0)
    assert [seen for seen in up.seen if seen[1] is Event.WAITING] == [
        ("slow", Event.WAITING, f"not ready after 24 s, limit 300 s; its log: {slow.log}")
    ]
    supervisor.stop(threading.Event())


def test_a_waiting_service_is_shown_with_its_log_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = "/srv/a/home/with/a/long/name/logs/mlflow.log"
    line = commands._text_line(Console(width=40))
    line("waiting", {"service": "mlflow", "url": "http://127.0.0.1:5000", "detail": f"not ready after 20 s; its log: {log}"})
    shown = capsys.readouterr().out
    assert shown.startswith("waiting mlflow")
    assert log in shown.splitlines()[0]


def test_a_service_that_ignores_sigterm_is_killed_at_the_limit(up: Stack) -> None:
    deaf = up.service("deaf", STUBBORN)
    supervisor = up.supervise(replace(deaf, ready=lambda _pid: "deaf" in deaf.log.read_text()), stop_s=0.5)
    supervisor.start(threading.Event())
    before = time.monotonic()
    supervisor.stop(threading.Event())
    assert 0.4 < time.monotonic() - before < 4


def test_a_second_interrupt_kills_at_once(up: Stack) -> None:
    deaf = up.service("deaf", STUBBORN)
    supervisor = up.supervise(replace(deaf, ready=lambda _pid: "deaf" in deaf.log.read_text()), stop_s=60)
    supervisor.start(threading.Event())
    hurry = threading.Event()
    hurry.set()
    before = time.monotonic()
    supervisor.stop(hurry)
    assert time.monotonic() - before < 4


def step_until(supervisor: Supervisor, holds: Callable[[], bool]) -> None:
    def step() -> bool:
        supervisor.step()
        return holds()

    until(step)


DYING = """
import sys, threading
from pathlib import Path
from tests.unit.test_supervisor import SLEEP, Stack
made = Stack(Path(sys.argv[1]))
supervisor = made.supervise(made.service("child", SLEEP))
supervisor.start(threading.Event())
print(made.running["child"].pid, flush=True)
supervisor.run(threading.Event())
"""


def test_services_end_with_a_supervisor_that_is_killed(up: Stack) -> None:
    command = [sys.executable, "-c", DYING, str(up.home)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = identify(int(supervisor.stdout.readline()))
        assert child is not None
        supervisor.kill()
    until(lambda: identify(child.pid) != child)


def test_a_second_up_on_the_same_home_is_refused_with_the_pid(tmp_path: Path) -> None:
    settings = read_settings({}, home=tmp_path)
    with earlier_stack.only_one(tmp_path):
        me = identify(os.getpid())
        assert me is not None
        earlier_stack.write_left(settings, {"gateway": me}, {"gateway": 1})
        with pytest.raises(Conflict, match=f"process {os.getpid()} runs the stack"), earlier_stack.only_one(tmp_path):
            pass
    with earlier_stack.only_one(tmp_path):
        assert earlier_stack.read_left(tmp_path).ports == {"gateway": 1}


def test_what_a_killed_up_left_is_ended_by_the_next(tmp_path: Path) -> None:
    made = Stack(tmp_path / "run")
    supervisor = made.supervise(made.service("gateway", SLEEP))
    supervisor.start(threading.Event())
    earlier_stack.write_left(read_settings({}, home=tmp_path), made.running, {})
    assert earlier_stack.clear_left(tmp_path, SystemClock()) == ("gateway",)
    assert members(tmp_path / "run" / "gateway", None) == ()
    assert earlier_stack.clear_left(tmp_path, SystemClock()) == ()
    supervisor.stop(threading.Event())


def test_the_log_of_a_service_is_cut_while_it_writes_on(up: Stack) -> None:
    chatty = "import threading\nwhile True: print('x' * 999, flush=True); threading.Event().wait(0.001)"
    supervisor = replace(up.supervise(up.service("chatty", chatty)), log_bytes=100_000)
    log = up.home / "chatty.log"
    supervisor.start(threading.Event())

    def cut() -> bool:
        supervisor.step()
        return log.with_name("chatty.log.1").exists() and 0 < log.stat().st_size < 100_000

    until(cut)
    assert log.with_name("chatty.log.1").stat().st_size == 25_000
    assert log.read_bytes()[:1] == b"x", "it appends at the new end"
    supervisor.stop(threading.Event())


def test_a_given_port_that_is_taken_names_its_holder() -> None:
    with Listener() as taken:
        with pytest.raises(Conflict, match=rf"port {taken.port} for gateway is taken by process {os.getpid()}"):
            ports.choose({"gateway": taken.port}, {})
        chosen = ports.choose({}, {"gateway": taken.port})
        assert chosen.ports["gateway"] != taken.port
        assert any(note.startswith(f"port {taken.port} is taken") for note in chosen.notes)  # a default may be taken by others too


def test_a_port_is_a_services_own_only_when_one_of_its_processes_listens_there() -> None:
    with Listener() as mine:
        assert ports.listens(mine.port, [os.getpid()])
        assert not ports.listens(mine.port, [os.getppid()])
    assert not ports.listens(mine.port, [os.getpid()])


def test_the_ports_of_last_time_are_used_again() -> None:
    with Listener() as taken:
        port = taken.port
    assert ports.choose({}, {"mlflow": port}).ports["mlflow"] == port


def test_prefect_and_mlflow_of_another_machine_are_used_and_not_started(tmp_path: Path) -> None:
    settings = read_settings({}, home=tmp_path, prefect_api_url="https://prefect.example/api", mlflow_url="https://mlflow.example")
    ours, _chosen = stack.with_ports(settings, {})
    assert ours.prefect_api_url == "https://prefect.example/api"
    assert {service.name for service in stack.services(ours)} == {"engines", "control", "gateway", "runner"}


class Listener:
    def __enter__(self) -> Listener:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
