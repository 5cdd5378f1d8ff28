"""What the demo starts beside itself: a small hub, the stack as a user would start it, and work that goes on meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Generic, TypeVar

from core.errors import Fault
from core.ports.clock import SystemClock
from core.settings import base_environ
from infra.local.demo_endings import EXPECTED
from infra.local.earlier_stack import bring_down
from infra.local.log_excerpt import excerpt

T = TypeVar("T")

_CHECKOUT = Path(__file__).resolve().parents[2]
MODELS = _CHECKOUT / "tests" / "equipment" / "models"
OURS = ("steady", "clumsy", "parrot")
_STOP_S = 60.0


@contextmanager
def hub(models: Path) -> Iterator[str]:
    """Serve the entries of `models`, folders or links to folders, as demo/NAME by the hub's protocol on loopback; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="seatrial-hub-") as root:
        (Path(root) / "demo").symlink_to(models)
        command = [sys.executable, "-m", "tests.equipment.hub_server", "--root", root]
        with subprocess.Popen(command, cwd=_CHECKOUT, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = server.stdout.readline().strip() if server.stdout else ""
                if not url:
                    raise Fault(f"the demo's hub did not start: exit code {server.wait(_STOP_S)}", hint="read its output above")
                yield url
            finally:
                server.terminate()


def published(models: Path) -> Path:
    """Fill a folder for `hub` with our three tiny models and return it."""
    models.mkdir(parents=True, exist_ok=True)
    for name in OURS:
        publish(models, name, MODELS / name)
    return models


def publish(models: Path, name: str, folder: Path) -> None:
    """Put a model's folder among the hub's."""
    (models / name).unlink(missing_ok=True)
    (models / name).symlink_to(folder)


@contextmanager
def stack(home: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> Iterator[float]:
    """Run `seatrial up` on `home` and yield the seconds until it was up. It is stopped at the end, whatever happens.

    Raises Fault with the cause that `up` gave when it does not come up.
    """
    begun = monotonic()
    log = home / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [str(Path(sys.executable).with_name("seatrial")), "up", "--home", str(home), "--json"]
    with log.open("w", encoding="utf-8") as errors:
        child = subprocess.Popen(
            command, cwd=_CHECKOUT, env={**_own_environ(), **environ}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        if not _came_up(child, say):
            child.wait(_STOP_S)
            raise Fault(f"the stack did not come up: {excerpt(log).removeprefix('Error: ')}", hint=f"read {log.parent}")
        yield round(monotonic() - begun, 1)
    finally:
        _stop(child, home)


def _own_environ() -> dict[str, str]:
    """Return the environment without the settings of another platform: the demo must not touch its database, cluster or weights."""
    return {
        name: value
        for name, value in base_environ().items()
        if not name.startswith("SEATRIAL_") or name.startswith(("SEATRIAL_ENGINE_", "SEATRIAL_TENSORIZE_"))
    }


def _came_up(child: subprocess.Popen[str], say: Callable[[str], None]) -> bool:
    for line in child.stdout or ():
        event = json.loads(line)
        say(" ".join(str(event[key]) for key in ("event", "service", "url", "detail", "note") if event.get(key)))
        if event["event"] == "up":
            return True
    return False


def _stop(child: subprocess.Popen[str], home: Path) -> None:
    """Stop the stack as Ctrl-C does; kill what does not stop in time."""
    child.terminate()
    try:
        child.communicate(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        bring_down(home, SystemClock())


class Background(Generic[T]):
    """Work in a thread that does not outlive the process. `result` waits, and raises what the work raised."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> T:
        """Return what the work returned. Raises its error, and Fault when it ended by a fault of the program."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if not self._value:
            raise Fault("a part of the demo ended with a traceback", hint="report it, with the output above")
        return self._value[0]

    def _run(self) -> None:
        try:
            self._value.append(self._work())
        except EXPECTED as error:
            self._error = error
