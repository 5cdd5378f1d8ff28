"""The embedded stack as the end-to-end tests drive it: start, kill a part, look at what is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
from safetensors.numpy import load_file, save_file

from core.settings import Settings, read_settings
from seatrial import Client
from seatrial.errors import Unavailable
from seatrial.types import Submission
from tests.equipment.hub_server import HubServer
from tests.equipment.prefect_api import prefect_api
from wiring import Platform

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "equipment" / "models"
SEATRIAL = Path(sys.executable).with_name("seatrial")
FAKE_ENGINE = {
    "SEATRIAL_ENGINE_MODULE": "tests.equipment.fake_engine",
    "SEATRIAL_ENGINE_PYTHON": sys.executable,
    "SEATRIAL_TRIALS_REFERENCE_GB": "0",  # a fake computes nothing that could be compared
}
QUICK = {
    "SEATRIAL_LEASE_S": "3",
    "SEATRIAL_ROLLOUT_PASS_INTERVAL_S": "0.3",
    "SEATRIAL_ROLLOUT_SYNTHETIC_AFTER_S": "0",
    "SEATRIAL_ROLLOUT_MIN_CONVERSATIONS": "2",
    "SEATRIAL_ROLLOUT_STEP_S": "0.2",
    "SEATRIAL_ROLLOUT_SOAK_S": "0.5",
    "SEATRIAL_ROLLOUT_DEADLINE_S": "600",
    "SEATRIAL_ROLLOUT_DRAIN_S": "5",
}
FAKES = {**FAKE_ENGINE, **QUICK, "SEATRIAL_MODELS_MAX_BYTES": "4000000", "SEATRIAL_MODELS_DOWNLOAD_STALL_S": "2"}
"""Settings of the stack that modules share: fake engines, small models, and a hub that may not be silent for long."""


class Stack:
    """`seatrial up` on a home of its own, with a hub of our own. `before` comes before every command: who runs it."""

    def __init__(self, home: Path, environ: Mapping[str, str], *, before: tuple[str, ...] = ()) -> None:
        self.home = home
        self.before = before
        self.models = home.parent / f"{home.name}-hub"
        (self.models / "org").mkdir(parents=True)
        self.hub = HubServer(self.models)
        self.environ = dict(environ)
        self._parts = ExitStack()
        self.child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._parts.enter_context(self.hub)
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.down()
        finally:
            self._parts.close()

    def up(self) -> None:
        """Start it and wait until all of it is ready."""
        given = {name: value for name, value in os.environ.items() if not name.startswith(("SEATRIAL_", "PREFECT_", "MLFLOW_"))}
        given |= {"SEATRIAL_HUB_ENDPOINT": self.hub.url, "SEATRIAL_HOME": str(self.home), **self.environ}
        with (self.home / "up.log").open("ab") as log:
            self.child = subprocess.Popen(
                [*self.before, str(SEATRIAL), "up", "--json"], cwd=ROOT, env=given, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.child.stdout is not None
        seen = []
        for line in self.child.stdout:
            seen.append(line)
            if json.loads(line)["event"] == "up":
                threading.Thread(target=self.child.stdout.read, daemon=True).start()
                return
        raise AssertionError(f"the stack did not come up: {seen[-3:]} {(self.home / 'up.log').read_text()[-500:]}")

    def down(self) -> None:
        """Stop it as Ctrl-C does."""
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
            self.child.wait(timeout=60)

    @property
    def settings(self) -> Settings:
        return read_settings({**self.environ, "SEATRIAL_HOME": str(self.home), "HOME": str(self.home)})

    @property
    def platform(self) -> Platform:
        """The adapters on this stack's home: what the database and the stores really hold."""
        return Platform(self.settings)

    @property
    def secret(self) -> str:
        return (self.home / "operator.key").read_text().strip()

    def client(self) -> Client:
        return Client(json.loads((self.home / "run/client.json").read_text())["control_url"], self.secret)

    def settings_url(self, service: str) -> str:
        """Where a service of this stack listens."""
        return f"http://127.0.0.1:{json.loads((self.home / 'run/stack.json').read_text())['ports'][service]}"

    def prefect(self) -> httpx.Client:
        """Prefect's API as its page asks it."""
        return prefect_api(f"{self.settings_url('prefect')}/api")

    def services(self) -> dict[str, int]:
        """Pids of the services by name."""
        document = json.loads((self.home / "run/stack.json").read_text())
        return {name: identity["pid"] for name, identity in document["services"].items()}

    def flow_processes(self) -> list[int]:
        """Pids of the processes that run flows: those that the runner's fork server forked."""
        return run_processes(self.services().get("runner", 0))

    def engine_processes(self) -> list[int]:
        """Pids of the engines' servers."""
        found = []
        for path in self.home.glob("engines/*/status.json"):
            process = json.loads(path.read_text()).get("process")
            if process and alive(process["pid"]):
                found.append(int(process["pid"]))
        return found

    def story(self, lines: int = 12) -> str:
        """What a person would look at first: every submission with its steps, and the end of every log."""
        records = self.platform.records.submissions
        rows = [records.get(found.id) for found in records.find()]
        told = [f"{row.id} {row.request.endpoint} {row.state} {row.reason}: {steps(row)}" for row in rows]
        for log in sorted(self.settings.logs.glob("*.log")):
            told += ["", f"== {log.name}", *log.read_text(errors="replace").splitlines()[-lines:]]
        return "\n".join(told)

    def left_processes(self) -> list[str]:
        """Command lines of whatever still runs for this home."""
        return [line for pid in pids() if str(self.home) in environ_of(pid) for line in [f"{pid} {command_of(pid)}"] if command_of(pid)]

    def submit(self, model: str, endpoint: str) -> Submission:
        with self.client() as client:
            return client.submissions.submit(model, endpoint)

    def finish(self, submission: str, limit_s: float = 240.0) -> Submission:
        """Wait for the end of a submission; the control API may be away for a while."""
        with self.client() as client:
            ended = within(limit_s, lambda: quietly(lambda: ended_or_none(client.submissions.get(submission))), f"the end of {submission}")
            assert isinstance(ended, Submission)
            return ended

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as the operator of this home does."""
        given = {**os.environ, "SEATRIAL_HOME": str(self.home), "COLUMNS": "160"}
        return subprocess.run(
            [*self.before, str(SEATRIAL), *words], cwd=ROOT, env=given, capture_output=True, text=True, timeout=120, check=False
        )

    def model(self, name: str, of: str = "steady", change: Callable[[Path], None] | None = None, *, seed: int | None = None) -> str:
        """Put a model on the hub: a copy of one of ours, its weights moved by a hair for `seed`, then changed."""
        folder = self.models / "org" / name
        shutil.copytree(MODELS / of, folder)
        if seed is not None:
            perturb(folder, seed)
        if change is not None:
            change(folder)
        return f"org/{name}"


def steps(row: Any) -> str:
    return ", ".join(f"{step.name} {step.state} (attempt {step.attempt}, +{step.started_at - row.created_at:.1f} s)" for step in row.steps)


def perturb(folder: Path, seed: int) -> None:
    """Change one weight by the smallest step: other content, the same behaviour."""
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-2 - 2 * seed] ^= 1
    path.write_bytes(raw)


def with_nan(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-2:] = b"\xc0\x7f"  # bfloat16 NaN, little endian
    path.write_bytes(raw)


def within(limit_s: float, look: Callable[[], Any], what: str, pause_s: float = 0.05) -> Any:
    """Return the first true thing that `look` gives, or fail after `limit_s`."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        threading.Event().wait(pause_s)
    raise AssertionError(f"not seen within {limit_s} s: {what}")


def quietly(look: Callable[[], Any]) -> Any:
    """Return what `look` gives; None while the platform is away."""
    try:
        return look()
    except Unavailable:
        return None


def ended_or_none(submission: Submission) -> Submission | None:
    return submission if submission.ended else None


def kill(*targets: int) -> None:
    for pid in targets:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def children(parent: int) -> list[int]:
    found = []
    for pid in pids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent and fields[0] not in "ZX":
            found.append(pid)
    return found


def fork_servers(runner: int) -> list[int]:
    """Pids of a flow runner's fork servers: one, once it takes runs."""
    return [pid for pid in children(runner) if "multiprocessing.forkserver" in command_of(pid)]


def run_processes(runner: int) -> list[int]:
    """Pids of a flow runner's runs."""
    return [pid for server in fork_servers(runner) for pid in children(server)]


def environ_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return dict(load_file(folder / "model.safetensors"))


def save(folder: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
