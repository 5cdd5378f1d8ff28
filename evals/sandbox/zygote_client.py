"""The platform's client of a zygote: it starts the process, sends it judges' sockets, and detects its end."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import Fault

_ZYGOTE = Path(__file__).with_name("zygote.py")
_START_S = 30.0
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class Means:
    """The kernel's optional means of confinement that a sandbox may use. Both by default; tests disable them."""

    namespaces: bool = True
    landlock: bool = True


class Judge:
    """A judge's socket, and whether the judge ends after its last verdict."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.last = True

    def has_ended(self) -> bool:
        """Return whether an idle judge has ended: only then is its socket readable."""
        self.channel.setblocking(False)
        try:
            self.channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        self.channel.close()
        return True


class Lost(Exception):
    """The zygote has ended or does not answer. Another one can be started."""


class ZygoteClient:
    """A running zygote. It ends with `close`, with this process, or when the last reference to this object is dropped."""

    def __init__(self, place: Path, means: Means) -> None:
        """Start it; `place` is an existing folder of the platform. Raises Fault when the zygote cannot confine itself."""
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
        self._idle: list[Judge] = []
        self._end = weakref.finalize(self, _end, self._control, self._process, self._idle)
        self._lock = threading.Lock()
        self.pid = self._process.pid
        self.level = self._receive_level()

    @contextmanager
    def judge(self) -> Iterator[Judge]:
        """Lend a judge: an idle one or a new one. Afterwards it is idle again unless it is `last`. Raises Lost."""
        with self._lock:
            judge = self._idle.pop() if self._idle else None
        if judge is None or judge.has_ended():
            judge = self._new_judge()
        try:
            yield judge
        except BaseException:
            judge.channel.close()
            raise
        with self._lock:
            keep = not judge.last and self._end.alive
            if keep:
                self._idle.append(judge)
        if not keep:
            judge.channel.close()

    def _new_judge(self) -> Judge:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                with self._lock:
                    socket.send_fds(self._control, [b"judge"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise Lost(error.strerror) from error
        return Judge(ours)

    def is_running(self) -> bool:
        """Return whether it accepts jobs."""
        return self._end.alive and self._process.poll() is None

    def close(self) -> None:
        """End it and every process that it has forked, and wait for their end. Closing twice does nothing."""
        self._end()

    def _receive_level(self) -> str:
        """Return the level of isolation that the zygote reports."""
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
    return Fault(f"the sandbox cannot start: {why}", hint="docs/sandbox.md lists the requirements of the machine")


def _end(control: socket.socket, process: subprocess.Popen[bytes], idle: list[Judge]) -> None:
    control.close()
    for judge in idle:
        judge.channel.close()
    if process.stderr:
        process.stderr.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
