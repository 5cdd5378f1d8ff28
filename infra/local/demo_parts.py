"""What the demo starts beside itself: a small hub with our three models, and the stack, as a user would start it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from core.errors import Fault
from core.settings import base_environ

_CHECKOUT = Path(__file__).resolve().parents[2]
MODELS = _CHECKOUT / "tests" / "equipment" / "models"
_STOP_S = 60.0


@contextmanager
def hub(models: Path) -> Iterator[str]:
    """Serve the folders of `models` as demo/NAME by the hub's protocol on loopback, and yield its URL."""
    with tempfile.TemporaryDirectory(prefix="seatrial-hub-") as root:
        (Path(root) / "demo").symlink_to(models)
        command = [sys.executable, "-m", "tests.equipment.hub_server", "--root", root]
        with subprocess.Popen(command, cwd=_CHECKOUT, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None  # noqa: S101 - Popen was given a pipe
                yield server.stdout.readline().strip()
            finally:
                server.terminate()


@contextmanager
def stack(home: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> Iterator[float]:
    """Run `seatrial up` on `home` and yield the seconds until it was up. Stopped at the end, as Ctrl-C does."""
    begun = monotonic()
    command = [str(Path(sys.executable).with_name("seatrial")), "up", "--home", str(home), "--json"]
    child = subprocess.Popen(command, cwd=_CHECKOUT, env={**base_environ(), **environ}, stdout=subprocess.PIPE, text=True)
    try:
        _await_up(child, say)
        yield round(monotonic() - begun, 1)
    finally:
        child.terminate()
        child.communicate(timeout=_STOP_S)


def _await_up(child: subprocess.Popen[str], say: Callable[[str], None]) -> None:
    assert child.stdout is not None  # noqa: S101 - Popen was given a pipe
    for line in child.stdout:
        event = json.loads(line)
        say(" ".join(str(event[key]) for key in ("event", "service", "url", "detail", "note") if event.get(key)))
        if event["event"] == "up":
            return
    raise Fault("the stack did not come up", hint="`seatrial doctor` says what is missing")
