"""Programs of the engine's environment (port `core/ports/engine_programs.py`): each in a process of its own, or forked.

A program that is spawned imports torch, which takes seconds of CPU time; the fork server has imported it.
"""

from __future__ import annotations

import os
import select
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, BinaryIO, Self

import structlog

from core.engines import EngineProgram
from core.errors import Fault
from core.ports.engine_programs import EnginePrograms, RunningProgram
from serving.engines.files import fork_server_socket
from serving.engines.fork_connection import ForkConnection

log = structlog.get_logger(__name__)

_ERROR_BYTES = 1 << 20
_ANSWER_S = 3.0
"""The fork server answers within milliseconds; a start without it takes seconds."""


class SpawnedPrograms:
    """Runs `<python> -m <module> PARENT_PID PROGRAM ARGUMENTS...`. The thread that starts a program must live until its end (prctl(2))."""

    def __init__(self, python: str, module: str = "seatrial_engine.programs") -> None:
        self._command = [python, "-m", module]

    def start(self, program: EngineProgram, arguments: Sequence[str]) -> RunningProgram:
        """Start a process. See the port."""
        command = [*self._command, str(os.getpid()), program, *arguments]
        with ExitStack() as opened:
            errors = opened.enter_context(tempfile.TemporaryFile())  # a pipe would fill up, since it is read only after the end
            try:
                child = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=errors, encoding="utf-8", errors="replace")
            except FileNotFoundError as error:
                raise Fault(f"the engine's interpreter {command[0]} does not exist", hint="run `make setup`") from error
            except OSError as error:
                raise Fault(
                    f"the engine's interpreter {command[0]} cannot be started: {error.strerror}", hint="run `make setup`"
                ) from error
            opened.pop_all()
        return _Spawned(child, errors)


class _Spawned:
    def __init__(self, child: Popen[str], errors: BinaryIO) -> None:
        self._child = child
        self._errors = errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._child.kill()  # does nothing to one that has ended
        with self._errors, self._child:
            pass

    def lines(self) -> Iterator[str]:
        assert self._child.stdout is not None  # noqa: S101 - Popen was given a pipe
        return iter(self._child.stdout)

    def wait(self) -> int:
        return self._child.wait()

    def kill(self) -> None:
        self._child.kill()

    def errors(self) -> str:
        return _end_of(self._errors)


class ForkedPrograms:
    """Has programs forked by the fork server whose address is in `address_file`.

    Where there is none, or it refuses or does not answer within `answer_s`, `otherwise` starts the program.
    """

    def __init__(self, address_file: Path, otherwise: EnginePrograms, *, answer_s: float = _ANSWER_S) -> None:
        self._address_file = address_file
        self._otherwise = otherwise
        self._answer_s = answer_s

    def start(self, program: EngineProgram, arguments: Sequence[str]) -> RunningProgram:
        """Fork a process, or start it otherwise. See the port."""
        path = fork_server_socket(self._address_file)
        if path is not None:
            try:
                return _fork(path, program, arguments, self._answer_s)
            except OSError as error:
                log.warning("fork_server.no_program", program=program, error=str(error))
        return self._otherwise.start(program, arguments)


def _fork(path: Path, program: EngineProgram, arguments: Sequence[str], answer_s: float) -> RunningProgram:
    """Have a program forked and let it begin. Raises OSError; the program does not begin then."""
    with ExitStack() as kept, ExitStack() as passed:
        connection = kept.enter_context(ForkConnection(path))
        errors = kept.enter_context(tempfile.TemporaryFile())
        output, write_end = os.pipe()
        passed.callback(os.close, write_end)
        lines = kept.enter_context(open(output, encoding="utf-8", errors="replace"))  # noqa: PTH123 - a descriptor
        gate, begin = os.pipe()
        passed.callback(os.close, gate)
        passed.callback(os.close, begin)
        request = {"program": program, "argv": list(arguments)}
        pid = connection.request(request, [gate, write_end, errors.fileno()], answer_s=answer_s)
        running = _Forked(connection, _pidfd(pid), lines, errors, kept.pop_all())
        os.write(begin, b"\n")  # from here on it runs: nothing may start it a second time
    return running


class _Forked:
    def __init__(self, connection: ForkConnection, pidfd: int | None, lines: IO[str], errors: BinaryIO, opened: ExitStack) -> None:
        self._connection = connection
        self._lines = lines
        self._errors = errors
        self._opened = opened
        self._lock = threading.Lock()
        self._pidfd = pidfd
        self._code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()
        self._await_end()
        with self._lock:
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None
        self._opened.close()

    def lines(self) -> Iterator[str]:
        return iter(self._lines)

    def wait(self) -> int:
        if self._code is None:
            self._await_end()
            reported = self._connection.exit_code()
            self._code = -signal.SIGKILL if reported is None else reported  # not reported: it was killed with the fork server
        return self._code

    def kill(self) -> None:
        with self._lock, suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def errors(self) -> str:
        return _end_of(self._errors)

    def _await_end(self) -> None:
        """Wait for the process itself: where the fork server has ended it may live for a moment longer than the connection."""
        if self._pidfd is not None:
            ended = select.poll()
            ended.register(self._pidfd, select.POLLIN)
            ended.poll()


def _pidfd(pid: int) -> int | None:
    """Return a descriptor of a process, None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _end_of(file: BinaryIO) -> str:
    """Return the last `_ERROR_BYTES` of a file as text. Does not move the file's offset, at which the program writes."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), _ERROR_BYTES, max(0, size - _ERROR_BYTES)).decode(errors="replace")
