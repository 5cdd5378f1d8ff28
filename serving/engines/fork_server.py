"""The fork server: a warm process from which engines are forked, so that an engine starts in two seconds instead of ten.

Its program, with the protocol, is `seatrial_engine.fork_server` in the engine's environment. It ends when its standard input closes, so
it never outlives the engine supervisor. The engines that it forked run in sessions of their own and outlive it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired
from typing import BinaryIO

import structlog

from core.ports.clock import Clock
from serving.engines import files

log = structlog.get_logger(__name__)

_WARM_UP_S = 60.0
_ANSWER_S = 10.0
_MOST_DEATHS = 3
"""After this many deaths the fork server is not started again, and engines start cold."""


@dataclass(frozen=True, slots=True)
class _Forked:
    """The connection on which the fork server reports the progress of one request."""

    connection: socket.socket
    lines: BinaryIO

    def read(self) -> dict[str, object]:
        """Return the next line; empty when the fork server has ended. Raises OSError."""
        try:
            document = json.loads(self.lines.readline() or b"{}")
        except ValueError as error:
            message = "its answer is not JSON"
            raise OSError(message) from error
        return document if isinstance(document, dict) else {}

    def close(self) -> None:
        """Close the connection; nothing changes for the server."""
        self.lines.close()
        self.connection.close()


class ForkServer:
    """One warm process of `python -m module --fork-server`. Not thread-safe but for `fork`, `ended` and `forget`.

    It is the parent of what it forks, so it alone learns how that ended. The connection of each fork stays open for this.
    """

    def __init__(self, python: str, module: str, environ: Mapping[str, str], log_file: Path, clock: Clock) -> None:
        self._command = [python, "-m", module, "--fork-server"]
        self._environ = dict(environ)
        self._log_file = log_file
        self._clock = clock
        self._process: Popen[bytes] | None = None
        self._folder: Path | None = None
        self._started = 0.0
        self._deaths = 0
        self._forked: dict[int, _Forked] = {}

    def ensure(self) -> None:
        """Start it unless it runs, up to the limit of deaths. Bounds its log."""
        files.bound(self._log_file)
        if self._runs():
            return
        if self._process is not None:
            self._deaths += 1
            log.warning("fork_server.died", code=self._process.returncode, deaths=self._deaths)
            self.close()
        if self._deaths < _MOST_DEATHS:
            self._start()

    def ready(self) -> bool:
        """Return whether it can fork now."""
        return self._runs() and self._socket.exists()

    def warming(self) -> bool:
        """Return whether it is starting: it runs, and has not exceeded the limit."""
        return self._runs() and not self._socket.exists() and self._clock.monotonic() - self._started < _WARM_UP_S

    def fork(self, argv: Sequence[str], log_file: Path, environ: Mapping[str, str]) -> int | None:
        """Fork a server with vLLM's arguments and return its pid; None if the fork server failed to (start it cold then)."""
        request = {"argv": list(argv), "log": str(log_file), "env": dict(environ)}
        connection = socket.socket(socket.AF_UNIX)
        forked = _Forked(connection, connection.makefile("rb"))
        try:
            connection.settimeout(_ANSWER_S)
            _connect(connection, self._socket)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = forked.read()
        except OSError as error:
            log.warning("fork_server.silent", error=str(error))
            forked.close()
            return None
        if "pid" not in answer:
            log.warning("fork_server.refused", error=str(answer.get("error", "no answer")))
            forked.close()
            return None
        pid = int(str(answer["pid"]))
        self.forget(pid)
        self._forked[pid] = forked
        return pid

    def ended(self, pid: int) -> int | None:
        """Return the code of a forked server that has ended (negative: the signal), None if it did not fork it."""
        forked = self._forked.pop(pid, None)
        if forked is None:
            return None
        try:
            code = forked.read().get("exit")
        except OSError:
            return None  # the fork server that forked it has ended or hangs
        finally:
            forked.close()
        return code if isinstance(code, int) else None

    def forget(self, pid: int) -> None:
        """Close the connection of a forked server whose exit status is not needed."""
        forked = self._forked.pop(pid, None)
        if forked is not None:
            forked.close()

    def close(self) -> None:
        """End it; engines that it forked keep running."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # type: ignore[union-attr]  # it was given a pipe
            try:
                self._process.wait(timeout=2.0)
            except TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def _socket(self) -> Path:
        return (self._folder or Path()) / "fork-server"

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="seatrial-fork-server-"))
        self._started = self._clock.monotonic()
        try:
            self._log_file.unlink(missing_ok=True)
            with self._log_file.open("ab") as output:  # appended to, so that it can be cut
                self._process = Popen(
                    [*self._command, str(self._socket.relative_to(self._folder.parent))],
                    env=self._environ,
                    cwd=self._folder.parent,  # of the engines too: their sockets have names relative to it
                    stdin=PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            log.warning("fork_server.unstartable", error=str(error))
            self._deaths = _MOST_DEATHS


def _connect(connection: socket.socket, path: Path) -> None:
    """Connect to a socket at a path of any length: the address may have 107 bytes. Raises OSError."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
