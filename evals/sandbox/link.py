"""The platform's end of a zygote: starting it, handing it samples, hearing that it is gone."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import Fault
from evals.sandbox.ground import Limits

_ZYGOTE = Path(__file__).with_name("zygote.py")
_START_S = 30.0
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Means:
    """Which of the kernel's means a sandbox may use beyond those that it must have. Both by default; tests take them away."""

    namespaces: bool = True
    landlock: bool = True


class Lost(Exception):
    """The zygote is gone. A new one can take its place."""


class Zygote:
    """A running zygote. It ends with `close`, with this process, and when nobody holds this object any more."""

    def __init__(self, place: Path, means: Means) -> None:
        """Start it; `place` is a folder of ours. Raises Fault when it cannot confine itself."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = {"control": theirs.fileno(), "place": str(place.resolve()), **asdict(means)}
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-E", "-B", str(_ZYGOTE), json.dumps(settings)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={},
                    cwd="/",
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                self._control.close()
                raise _fault(f"no child process: {error.strerror}") from error
        self._end = weakref.finalize(self, _end, self._control, self._process)
        self._lock = threading.Lock()
        self.pid = self._process.pid
        self.level = self._hear()

    def hand_over(self, limits: Limits) -> socket.socket:
        """Have a judge forked and return the socket to it. Raises Lost."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                with self._lock:
                    socket.send_fds(self._control, [json.dumps(asdict(limits)).encode()], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise Lost(error.strerror) from error
        return ours

    def is_running(self) -> bool:
        """Return whether it can take samples."""
        return self._end.alive and self._process.poll() is None

    def close(self) -> None:
        """End it and all that it has forked; return when they are gone. Again: nothing happens."""
        self._end()

    def _hear(self) -> str:
        """Return the level of isolation that it reports."""
        ready, _, _ = select.select([self._control], [], [], _START_S)
        said: dict[str, Any] = json.loads(self._control.recv(4096) or b"{}") if ready else {}
        if "level" in said:
            return str(said["level"])
        self._process.kill()
        _stdout, errors = self._process.communicate()
        self.close()
        last = (errors.decode("utf-8", "replace").strip().splitlines() or [f"it said nothing for {_START_S:.0f} s"])[-1]
        raise _fault(str(said.get("fault", last))[:300])


def _fault(why: str) -> Fault:
    return Fault(f"the sandbox cannot start: {why}", hint="docs/sandbox.md says what it needs of the machine")


def _end(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    control.close()
    if process.stderr:
        process.stderr.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
