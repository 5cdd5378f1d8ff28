"""What every adapter of the Engines port does, and what the local one does when things are killed."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from core.engines import EngineCause, EnginePhase, EngineSpec, EngineState
from core.errors import Conflict
from core.ids import Digest, VersionId
from core.ports import Engines
from core.ports.clock import SystemClock, VirtualClock
from lifecycle.engine_starts import hint_for
from serving.engines.files import EngineFiles
from serving.engines.fork_server import ForkServer
from serving.engines.launcher import VllmLauncher
from serving.engines.local import LocalEngines
from serving.engines.processes import identify, members
from serving.engines.supervisor import EngineSupervisor, Limits
from tests.equipment.fakes import FakeEngines
from tests.equipment.kube_api import Behaviour
from tests.equipment.kube_env import cluster, pass_time

ROOT = Path(__file__).resolve().parents[2]
ENGINE_PYTHON = ROOT / "serving/engines/vllm/.venv/bin/python"
STEADY = ROOT / "tests/equipment/models/steady"
VERSION = VersionId("a" * 64)
QUICK = Limits(start_s=20, hang_s=1, pause_s=0.05, look_s=0.1, shutdown_drain_s=5)


@dataclass
class Harbour:
    """Engines under test, and how to let time pass until something holds."""

    engines: Engines
    spec: EngineSpec
    advance: Callable[[], None]
    limit_s: float = 20.0

    def wait_for(self, phase: EnginePhase, version: VersionId = VERSION) -> EngineState:
        give_up = time.monotonic() + self.limit_s
        while (state := self.engines.state(version)).phase is not phase:
            assert time.monotonic() < give_up, f"still {state}, wanted {phase}: {self.engines.logs(version, 30)}"
            assert state.phase is not EnginePhase.FAILED, f"{state}: {self.engines.logs(version, 30)}"
            self.advance()
        return state

    def broken(self) -> EngineSpec:
        return replace(self.spec, version=VersionId("b" * 64), tensors_manifest=Digest("0" * 64))


def fake_spec(folder: Path, **skill: object) -> EngineSpec:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"seatrial_fake": skill}))
    (folder / "tensors.json").write_text("{}")
    digest = Digest(hashlib.sha256(b"{}").hexdigest())
    return EngineSpec(VERSION, folder.as_uri(), folder.as_uri(), digest, max_model_len=1024, dtype="bfloat16", memory_bytes=4 * 1024**3)


def fake_launcher() -> VllmLauncher:
    return VllmLauncher(sys.executable, "tests.equipment.fake_engine", {**os.environ, "HOME": os.environ.get("HOME", "/")})


class ModuleLauncher(VllmLauncher):
    """The fake is found in the checkout, not in an environment of its own."""

    def environ(self, spec: EngineSpec) -> dict[str, str]:
        return {**super().environ(spec), "PYTHONPATH": str(ROOT)}


class LocalHarbour:
    """An engine supervisor in a thread over a folder; what it left is killed at the end."""

    def __init__(self, folder: Path, launcher: VllmLauncher, limits: Limits) -> None:
        self.folder = folder
        self.engines = LocalEngines(folder, SystemClock())
        self._make = partial(EngineSupervisor, folder, launcher, SystemClock(), limits=limits)
        self._stop = threading.Event()
        self._thread = threading.Thread()

    def open(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make().run, args=(self._stop,))
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def processes(self, version: VersionId = VERSION) -> tuple[int, ...]:
        status = EngineFiles(self.folder / version).status()
        return tuple(process.pid for process in members(self.folder / version, status.process if status else None))

    def pid(self, version: VersionId = VERSION) -> int:
        status = EngineFiles(self.folder / version).status()
        assert status is not None
        assert status.process is not None
        return status.process.pid


def pause() -> None:
    threading.Event().wait(0.02)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalHarbour]:
    harbour = LocalHarbour(tmp_path / "engines", ModuleLauncher(sys.executable, "tests.equipment.fake_engine", dict(os.environ)), QUICK)
    harbour.open()
    yield harbour
    harbour.close()
    assert harbour.processes() == ()


@pytest.fixture(
    params=["memory", "local", "kubernetes", pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.vllm])],
)
def harbour(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harbour]:
    if request.param == "memory":
        clock = VirtualClock()
        fakes = FakeEngines(clock, start_s=3, stop_s=1)
        spec = fake_spec(tmp_path / "model")
        fakes.fail(VersionId("b" * 64), "weights refused: tensors.json: its SHA-256 differs", EngineCause.WEIGHTS_REFUSED)
        yield Harbour(fakes, spec, lambda: clock.wait(1))
    elif request.param == "local":
        local: LocalHarbour = request.getfixturevalue("local")
        yield Harbour(local.engines, fake_spec(tmp_path / "model"), pause)
    elif request.param == "kubernetes":
        yield from _kubernetes(tmp_path)
    else:
        yield from _vllm(tmp_path)


def _kubernetes(tmp_path: Path) -> Iterator[Harbour]:
    """The adapter against our own API server; against a real one: tests/kubernetes."""
    clock = VirtualClock()
    with cluster(clock, tmp_path) as (kube, engines):
        kube.behave("b" * 64, Behaviour(dies="seatrial: weights refused: tensors.json: its SHA-256 differs; tensorize the weights again"))
        yield Harbour(engines, fake_spec(tmp_path / "model"), partial(pass_time, kube, clock))


def _vllm(tmp_path: Path) -> Iterator[Harbour]:
    assert ENGINE_PYTHON.exists(), f"{ENGINE_PYTHON} is missing: set the engine's environment up with `make`"
    spec = vllm_spec(tmp_path)
    real = LocalHarbour(tmp_path / "engines", vllm_launcher(), Limits(shutdown_drain_s=10))
    real.open()
    yield Harbour(real.engines, spec, pause, limit_s=300)
    real.close()
    assert real.processes() == ()


def vllm_launcher() -> VllmLauncher:
    class Launcher(VllmLauncher):
        def environ(self, spec: EngineSpec) -> dict[str, str]:
            return {**super().environ(spec), "PYTHONPATH": str(ENGINE_PYTHON.parents[2])}

    return Launcher(str(ENGINE_PYTHON), "seatrial_engine.serve", dict(os.environ))


def vllm_spec(tmp_path: Path) -> EngineSpec:
    tensors = tmp_path / "tensors"
    command = [str(ENGINE_PYTHON), "-m", "seatrial_engine.tensorize", str(STEADY), str(tensors)]
    subprocess.run(command, check=True, cwd=ENGINE_PYTHON.parents[2], capture_output=True)
    digest = Digest(hashlib.sha256((tensors / "tensors.json").read_bytes()).hexdigest())
    return EngineSpec(VERSION, STEADY.as_uri(), tensors.as_uri(), digest, max_model_len=1024, dtype="bfloat16", memory_bytes=4 * 1024**3)


def test_an_engine_that_was_never_applied_is_absent(harbour: Harbour) -> None:
    assert harbour.engines.state(VERSION).phase is EnginePhase.ABSENT
    assert harbour.engines.list() == ()
    assert harbour.engines.logs(VERSION, 10) == ()


def test_stopping_what_is_gone_does_nothing(harbour: Harbour) -> None:
    harbour.engines.stop(VERSION, drain_s=1)
    assert harbour.engines.state(VERSION).phase is EnginePhase.ABSENT


def test_an_engine_starts_stops_and_starts_again(harbour: Harbour) -> None:
    harbour.engines.apply(harbour.spec)
    assert harbour.engines.state(VERSION).phase is EnginePhase.STARTING
    assert harbour.engines.state(VERSION).address is None
    ready = harbour.wait_for(EnginePhase.READY)
    assert ready.address is not None
    assert ready.load_seconds is not None
    assert harbour.engines.list() == (ready,)

    harbour.engines.apply(harbour.spec)
    assert harbour.engines.state(VERSION) == ready, "the same spec again changes nothing"
    with pytest.raises(Conflict):
        harbour.engines.apply(replace(harbour.spec, max_model_len=512))

    harbour.engines.stop(VERSION, drain_s=5)
    assert harbour.engines.state(VERSION).phase is EnginePhase.STOPPING
    assert harbour.engines.state(VERSION).address is None
    harbour.wait_for(EnginePhase.ABSENT)
    assert harbour.engines.list() == ()
    assert harbour.engines.logs(VERSION, 5), "the log is kept"

    harbour.engines.apply(harbour.spec)
    harbour.wait_for(EnginePhase.READY)


def test_weights_that_are_refused_fail_with_the_cause_and_the_same_spec_is_a_new_attempt(harbour: Harbour) -> None:
    spec = harbour.broken()
    harbour.engines.apply(spec)
    give_up = time.monotonic() + harbour.limit_s
    while (state := harbour.engines.state(spec.version)).phase is not EnginePhase.FAILED:
        assert time.monotonic() < give_up, state
        harbour.advance()
    assert "weights refused" in state.detail
    assert state.cause is EngineCause.WEIGHTS_REFUSED
    assert state.address is None
    harbour.engines.apply(spec)
    assert harbour.engines.state(spec.version).phase is EnginePhase.STARTING
    harbour.engines.stop(spec.version, drain_s=0)


def test_an_engine_killed_while_ready_is_restarted_and_nothing_of_the_old_one_is_left(local: LocalHarbour, tmp_path: Path) -> None:
    here = Harbour(local.engines, fake_spec(tmp_path / "model"), pause)
    here.engines.apply(here.spec)
    here.wait_for(EnginePhase.READY)
    old = local.pid()
    os.kill(old, signal.SIGKILL)
    here.wait_for(EnginePhase.RESTARTING)
    state = here.wait_for(EnginePhase.READY)
    assert state.restarts == 1
    assert local.pid() != old
    assert identify(old) is None


def test_a_supervisor_that_stops_ends_its_engines_and_the_next_one_starts_them(local: LocalHarbour, tmp_path: Path) -> None:
    here = Harbour(local.engines, fake_spec(tmp_path / "model"), pause)
    here.engines.apply(here.spec)
    here.wait_for(EnginePhase.READY)
    local.close()
    assert local.processes() == ()
    assert here.engines.state(VERSION).phase is EnginePhase.STARTING
    local.open()
    here.wait_for(EnginePhase.READY)


def test_a_second_supervisor_of_the_same_folder_is_refused(local: LocalHarbour, tmp_path: Path) -> None:
    here = Harbour(local.engines, fake_spec(tmp_path / "model"), pause)
    here.engines.apply(here.spec)
    here.wait_for(EnginePhase.READY)
    with pytest.raises(Conflict, match="already supervises the engines"):
        EngineSupervisor(local.folder, fake_launcher(), SystemClock()).open()


def test_a_stop_lets_an_answer_in_flight_finish(local: LocalHarbour, tmp_path: Path) -> None:
    here = Harbour(local.engines, fake_spec(tmp_path / "model", token_s=0.1), pause)
    here.engines.apply(here.spec)
    address = here.wait_for(EnginePhase.READY).address
    finished = _stream_while(address, lambda: here.engines.stop(VERSION, drain_s=20))
    assert "[DONE]" in finished
    here.wait_for(EnginePhase.ABSENT)


def test_a_stop_kills_what_is_not_done_in_time(local: LocalHarbour, tmp_path: Path) -> None:
    here = Harbour(local.engines, fake_spec(tmp_path / "model", token_s=5.0), pause)
    here.engines.apply(here.spec)
    state = here.wait_for(EnginePhase.READY)
    port = urlsplit(state.address or "").port
    connection = http.client.HTTPConnection("127.0.0.1", port or 0, timeout=30)
    connection.request("POST", "/v1/completions", body=json.dumps({"prompt": "def", "stream": True, "max_tokens": 3}))
    connection.getresponse()
    here.engines.stop(VERSION, drain_s=0.3)
    here.wait_for(EnginePhase.ABSENT)
    connection.close()


def test_a_hung_engine_is_killed_and_started_anew(local: LocalHarbour, tmp_path: Path) -> None:
    here = Harbour(local.engines, fake_spec(tmp_path / "model"), pause, limit_s=40)
    here.engines.apply(here.spec)
    here.wait_for(EnginePhase.READY)
    os.kill(local.pid(), signal.SIGSTOP)
    here.wait_for(EnginePhase.RESTARTING)
    assert here.wait_for(EnginePhase.READY).restarts == 1


def test_an_engine_that_dies_at_its_start_is_given_up_after_three_with_the_cause(tmp_path: Path) -> None:
    clock = VirtualClock()
    folder = tmp_path / "engines"
    supervisor = EngineSupervisor(
        folder, ModuleLauncher(sys.executable, "tests.equipment.fake_engine", dict(os.environ)), clock, limits=Limits(start_s=1e9)
    )
    engines = LocalEngines(folder, clock)
    engines.apply(fake_spec(tmp_path / "model", dies_at_start="RuntimeError: the moon is full"))
    supervisor.open()
    give_up = time.monotonic() + 30
    while (state := engines.state(VERSION)).phase is not EnginePhase.FAILED:
        assert time.monotonic() < give_up, state
        supervisor.step()
        clock.wait(1)
        pause()
    supervisor.close()
    assert state.detail == "RuntimeError: the moon is full"
    assert sum(line.startswith("seatrial: start of engine") for line in engines.logs(VERSION, 100)) == 3


class ForkServerLauncher(VllmLauncher):
    """The fake engine, forked by the engine environment's own fork server."""

    def base_environ(self) -> dict[str, str]:
        return {**super().base_environ(), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ENGINE_PYTHON.parents[2])])}


@pytest.mark.parametrize("started", ["cold", "forked"])
@pytest.mark.parametrize(
    ("dies", "cause", "words", "next_step"),
    [
        (
            {"dies_by": "SIGILL"},
            EngineCause.ILLEGAL_INSTRUCTION,
            "SIGILL (illegal instruction",
            "run `seatrial doctor` on the engine's machine",
        ),
        ({"dies_by": "SIGKILL"}, EngineCause.KILLED, "(SIGKILL), probably because memory ran out: ", "SEATRIAL_MODELS_ENGINE_MEMORY_BYTES"),
        ({"dies_by": "SIGSEGV"}, EngineCause.SEGMENTATION_FAULT, "SIGSEGV (segmentation fault", "or ask the operator"),
        ({"dies_by": "7"}, EngineCause.EXITED, "exit code 7 without an error message", "or ask the operator"),
        (
            {"dies_at_start": "RuntimeError: the moon is full"},
            EngineCause.EXCEPTION,
            "RuntimeError: the moon is full",
            "or ask the operator",
        ),
    ],
    ids=["SIGILL", "SIGKILL", "SIGSEGV", "exit code", "exception"],
)
def test_a_failed_start_gives_its_submitter_the_cause_in_words(
    tmp_path: Path, started: str, dies: dict[str, str], cause: EngineCause, words: str, next_step: str
) -> None:
    clock, folder = VirtualClock(), tmp_path / "engines"
    launcher = ForkServerLauncher(sys.executable, "tests.equipment.fake_fork_server", dict(os.environ))
    fork_server = None
    if started == "forked":
        folder.mkdir()
        fork_server = ForkServer(
            sys.executable, "tests.equipment.fake_fork_server", launcher.base_environ(), folder / "fork_server.log", clock
        )
    supervisor = EngineSupervisor(folder, launcher, clock, limits=Limits(start_s=1e9), fork_server=fork_server)
    engines = LocalEngines(folder, clock)
    supervisor.open()
    give_up = time.monotonic() + 60
    while fork_server is not None and not fork_server.ready():
        assert time.monotonic() < give_up, (folder / "fork_server.log").read_text()
        supervisor.step()
        pause()
    engines.apply(fake_spec(tmp_path / "model", **dies))
    while (state := engines.state(VERSION)).phase is not EnginePhase.FAILED:
        assert time.monotonic() < give_up, (state, engines.logs(VERSION, 30))
        supervisor.step()
        clock.wait(1)
        pause()
    supervisor.close()
    assert state.cause is cause
    assert words in state.detail
    assert "/health" not in state.detail
    assert next_step in hint_for(state)


def test_a_status_of_an_earlier_release_has_an_unknown_cause_and_keeps_its_detail(tmp_path: Path) -> None:
    engines = LocalEngines(tmp_path, SystemClock())
    spec = fake_spec(tmp_path / "model")
    engines.apply(spec)
    old = {"attempt": 1, "phase": "failed", "since": 1.0, "process": None, "detail": "the disk is full"}
    (tmp_path / VERSION / "status.json").write_text(json.dumps(old))
    state = engines.state(VERSION)
    assert (state.phase, state.cause, state.detail) == (EnginePhase.FAILED, EngineCause.UNKNOWN, "the disk is full")


SUPERVISOR = """
import os, sys, threading
from functools import partial
from pathlib import Path
from core.ports.clock import SystemClock
from serving.engines.supervisor import EngineSupervisor, Limits
from tests.contract.test_engines import ModuleLauncher
launcher = ModuleLauncher(sys.executable, "tests.equipment.fake_engine", dict(os.environ))
EngineSupervisor(Path(sys.argv[1]), launcher, SystemClock(), limits=Limits(pause_s=0.05)).run(threading.Event())
"""


def test_an_adopted_engine_that_dies_has_no_exit_status_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    engines = LocalEngines(folder, SystemClock())
    here = Harbour(engines, fake_spec(tmp_path / "model"), pause, limit_s=120)
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(folder)], cwd=ROOT) as first:
        try:
            engines.apply(here.spec)
            here.wait_for(EnginePhase.READY)
        finally:
            first.kill()
    adopting = EngineSupervisor(folder, fake_launcher(), SystemClock(), limits=QUICK)
    adopting.open()
    adopting.step()
    status = EngineFiles(folder / VERSION).status()
    assert status is not None
    assert status.process is not None
    os.kill(status.process.pid, signal.SIGILL)
    give_up = time.monotonic() + here.limit_s
    while (status := EngineFiles(folder / VERSION).status()) is None or status.restarts == 0:
        assert time.monotonic() < give_up
        adopting.step()
        pause()
    assert status.cause is EngineCause.UNKNOWN
    assert "its exit status is not known, because its parent process ended before it did" in status.detail
    adopting.shut_down()
    adopting.close()


def test_engines_outlive_a_killed_supervisor_and_the_next_one_adopts_them(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    engines = LocalEngines(folder, SystemClock())
    here = Harbour(engines, fake_spec(tmp_path / "model"), pause, limit_s=120)
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(folder)], cwd=ROOT) as first:
        try:
            engines.apply(here.spec)
            before = here.wait_for(EnginePhase.READY)
        finally:
            first.kill()
    next_supervisor = LocalHarbour(folder, fake_launcher(), QUICK)
    pid = next_supervisor.pid()
    assert engines.state(VERSION) == before, "it serves without an engine supervisor"
    next_supervisor.open()
    threading.Event().wait(0.5)
    assert engines.state(VERSION) == before
    assert next_supervisor.pid() == pid
    engines.stop(VERSION, drain_s=2)
    here.wait_for(EnginePhase.ABSENT)
    next_supervisor.close()
    assert identify(pid) is None


@pytest.mark.slow
@pytest.mark.vllm
def test_real_vllm_finishes_answers_restarts_after_a_kill_and_leaves_nothing(tmp_path: Path) -> None:
    spec = vllm_spec(tmp_path)
    real = LocalHarbour(tmp_path / "engines", vllm_launcher(), Limits())
    here = Harbour(real.engines, spec, pause, limit_s=300)
    real.open()
    try:
        here.engines.apply(spec)
        here.wait_for(EnginePhase.READY)
        os.kill(real.pid(), signal.SIGKILL)
        here.wait_for(EnginePhase.RESTARTING)
        here.wait_for(EnginePhase.READY)
        (engine_process,) = Path(f"/proc/{real.pid()}/task/{real.pid()}/children").read_text().split()
        os.kill(int(engine_process), signal.SIGILL)
        give_up = time.monotonic() + here.limit_s
        while (crashed := here.engines.state(VERSION)).cause is None:
            assert time.monotonic() < give_up, crashed
            here.advance()
        assert crashed.cause is EngineCause.ILLEGAL_INSTRUCTION, crashed
        assert "the process EngineCore" in crashed.detail
        assert "SIGILL (illegal instruction" in crashed.detail
        assert "run `seatrial doctor`" in hint_for(crashed)
        address = here.wait_for(EnginePhase.READY).address
        body = {"model": "any-endpoint", "prompt": "def ", "max_tokens": 900, "ignore_eos": True, "stream": True}
        finished = _stream_while(address, lambda: here.engines.stop(VERSION, drain_s=60), body)
        assert "[DONE]" in finished
        assert finished.count("data: ") > 100
        here.wait_for(EnginePhase.ABSENT)
    finally:
        real.close()
    assert real.processes() == ()


def _stream_while(address: str | None, act: Callable[[], None], body: dict[str, object] | None = None) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(address or "").port or 0, timeout=120)
    asked = body or {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    path = "/v1/chat/completions" if "messages" in asked else "/v1/completions"
    connection.request("POST", path, body=json.dumps(asked), headers={"Content-Type": "application/json", "X-Request-Id": "r1"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    first = response.readline().decode()
    act()
    rest = response.read().decode()
    connection.close()
    return first + rest
