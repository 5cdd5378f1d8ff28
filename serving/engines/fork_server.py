"""The fork server: a warm process from which engines are forked, so that an engine starts in two seconds instead of ten.

Its program, with the protocol, is `seatrial_engine.fork_server` in the engine's environment. It ends when its standard input closes, so
it never outlives the engine supervisor. The engines that it forked run in sessions of their own and outlive it.

While it listens, a file has its address, for processes that have programs forked (programs.py).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired

import structlog

from core.ports.clock import Clock
from serving.engines import files
from serving.engines.fork_connection import ForkConnection
from serving.engines.processes import identify

log = structlog.get_logger(__name__)

_WARM_UP_S = 60.0
_MOST_DEATHS = 3
"""After this many deaths the fork server is not started again, and engines start cold."""


class ForkServer:
    """One warm process of `python -m module --fork-server`. Not thread-safe but for `fork`, `ended` and `forget`.

    It is the parent of what it forks, so it alone learns how that ended. The connection of each fork stays open for this.
    """

    def __init__(
        self,
        python: str,
        module: str,
        environ: Mapping[str, str],
        log_file: Path,
        clock: Clock,
        *,
        address_file: Path | None = None,
    ) -> None:
        self._command = [python, "-m", module, "--fork-server"]
        self._environ = dict(environ)
        self._log_file = log_file
        self._clock = clock
        self._address_file = address_file
        self._announced = False
        self._process: Popen[bytes] | None = None
        self._folder: Path | None = None
        self._started = 0.0
        self._deaths = 0
        self._forked: dict[int, ForkConnection] = {}

    def ensure(self) -> None:
        """Start it unless it runs, up to the limit of deaths. Writes its address once it listens, and bounds its log."""
        files.bound(self._log_file)
        if self._runs():
            self._announce()
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
        with ExitStack() as opened:
            try:
                connection = opened.enter_context(ForkConnection(self._socket))
                pid = connection.request(request)
            except OSError as error:
                log.warning("fork_server.no_engine", error=str(error))
                return None
            opened.pop_all()
        self.forget(pid)
        self._forked[pid] = connection
        return pid

    def ended(self, pid: int) -> int | None:
        """Return the code of a forked server that has ended (negative: the signal), None if it did not fork it."""
        connection = self._forked.pop(pid, None)
        if connection is None:
            return None
        with connection:
            return connection.exit_code()

    def forget(self, pid: int) -> None:
        """Close the connection of a forked server whose exit status is not needed."""
        connection = self._forked.pop(pid, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """End it, and the programs that it forked; engines keep running."""
        self._withdraw()
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

    def _announce(self) -> None:
        if self._announced or self._address_file is None or self._process is None or not self._socket.exists():
            return
        process = identify(self._process.pid)
        if process is None:
            return
        self._announced = True
        try:
            files.save_fork_server(self._address_file, self._socket, process)
        except OSError as error:  # the disk is full: programs are spawned until the next start
            log.warning("fork_server.unannounced", error=str(error))

    def _withdraw(self) -> None:
        if self._announced and self._address_file is not None:  # else it may be that of another supervisor
            with contextlib.suppress(OSError):
                self._address_file.unlink()
        self._announced = False

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
