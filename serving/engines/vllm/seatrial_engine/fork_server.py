"""The fork server: a warm process that forks vLLM servers and programs, so that an engine starts in about two seconds.

It has imported everything and holds no thread and no model. The platform keeps one running and sends one line of JSON per process
to its unix socket (readable by its owner only), and reads lines back on the same connection:

    > {"argv": ["--model", "/models/x", "--port", "8001"], "log": "/logs/x.log", "env": {"VLLM_LOGGING_LEVEL": "INFO"}}
    < {"pid": 4711}
    < {"exit": 0}          when the server has ended, if the client is still connected; negative: the signal that ended it

`log` takes standard output and error (appended); `log` and `env` may be left out; what is read
when a library is loaded (OMP_NUM_THREADS) must be in the fork server's own environment. A bad request gets `{"error": "..."}`. Closing
the connection changes nothing for the server. A server is a session of its own: it outlives the fork server, and a signal to the
fork server's process group does not reach it. The fork server ends on SIGTERM, and where its standard input is a pipe, when that
pipe closes, so it never outlives its parent.

A request may name a program of `programs.PROGRAMS` instead, and passes three file descriptors with it (SCM_RIGHTS):

    > {"program": "tensorize", "argv": ["/models/x", "/scratch/x"]}        with a pipe's read end, standard output, standard error
    < {"pid": 4712}
    < {"exit": 0}

The program begins when it reads a byte from the pipe, and ends without beginning when the pipe closes: a client that did not wait for
the answer runs the program elsewhere, and the two must not run at the same time. A program ends with its client: the fork server kills
it when the connection closes. It ends with the fork server too (parent-death signal).

The fork server answers clients of its own user only.
"""

import json
import os
import selectors
import signal
import socket
import stat
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from seatrial_engine import programs
from seatrial_engine.parent_death import end_with_parent

_REQUEST_TIMEOUT_S: Final = 5.0
_MAX_REQUEST_BYTES: Final = 1 << 20
_PROGRAM_DESCRIPTORS: Final = 3
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


@dataclass(frozen=True, slots=True)
class Request:
    """One process to fork: a server, or the named program."""

    argv: tuple[str, ...]
    log: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    program: str | None = None


class BadRequestError(ValueError):
    """The line is not a request; the message gives the reason."""


def serve_forks(socket_path: str) -> tuple[str, ...]:
    """Wait for requests and fork a process for each; return a server's argv, in that process only.

    In the fork server itself this never returns: it ends with SystemExit(0) on SIGTERM or when its standard input closes. In a program's
    process it ends with SystemExit and the program's exit code.
    """
    signal.signal(signal.SIGTERM, _exit_quietly)
    path = Path(socket_path)
    path.unlink(missing_ok=True)  # left by a fork server that was killed
    with _listen(path) as listener, selectors.DefaultSelector() as selector:
        parent = os.getpid()
        selector.register(listener, selectors.EVENT_READ)
        if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        _announce(path)
        try:
            request = _fork_on_request(selector, listener)
        finally:
            if os.getpid() == parent:
                path.unlink(missing_ok=True)
    if request.program is not None:
        _run(request.program, request.argv, parent)
    return request.argv


def read_request(line: bytes) -> Request:
    """Parse one request line. Raises BadRequestError, which says what is wrong with it."""
    try:
        document = json.loads(line)
        argv, log, env = document["argv"], document.get("log"), document.get("env", {})
        program = document.get("program")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = "a request is one line of JSON with argv, and may have log, env and program"
        raise BadRequestError(message) from error
    if not isinstance(argv, list) or not all(isinstance(argument, str) for argument in argv):
        message = "argv must be a list of strings"
        raise BadRequestError(message)
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        message = "env must map names to strings"
        raise BadRequestError(message)
    if log is not None and not isinstance(log, str):
        message = "log must be a path"
        raise BadRequestError(message)
    if program is not None and (not isinstance(program, str) or program not in programs.PROGRAMS):
        message = f"program must be one of {', '.join(programs.PROGRAMS)}, got {program!r}"
        raise BadRequestError(message)
    return Request(tuple(argv), None if log is None else Path(log), env, program)


def _exit_quietly(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen()
    return listener


def _announce(path: Path) -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))  # more than one would make forking unsafe
    sys.stdout.write(json.dumps({"event": "listening", "socket": str(path), "pid": os.getpid(), "threads": threads}) + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class _Child:
    """A forked process. `tied`: it is killed when its connection closes."""

    pidfd: int
    connection: socket.socket
    tied: bool


def _fork_on_request(selector: selectors.BaseSelector, listener: socket.socket) -> Request:
    """Serve the loop; return in a forked child with its request."""
    while True:
        for key, _events in selector.select():
            if key.fileobj is listener:
                request = _accept(selector, listener)
                if request is not None:
                    return request
            elif isinstance(key.data, _Child):
                if selector.get_map().get(key.fd) is key:  # else this round has reported the child already
                    _follow(selector, key.data, ended=key.fd == key.data.pidfd)
            elif not os.read(sys.stdin.fileno(), 4096):
                raise SystemExit(0)


def _follow(selector: selectors.BaseSelector, child: _Child, *, ended: bool) -> None:
    if ended:
        _report_exit(selector, child)
    else:  # its client closed the connection; no client sends more than its request
        selector.unregister(child.connection)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)


def _accept(selector: selectors.BaseSelector, listener: socket.socket) -> Request | None:
    """Answer one connection; return its request in the forked child, None in the fork server."""
    connection, _address = listener.accept()
    connection.settimeout(_REQUEST_TIMEOUT_S)
    passed: list[int] = []
    try:
        _refuse_other_users(connection)
        request = read_request(_read_line(connection, passed))
        outputs = _outputs(request, passed)
    except (BadRequestError, OSError) as error:
        _send(connection, {"error": str(error)})
        connection.close()
        _close(passed)
        return None
    pid = os.fork()
    if pid == 0:
        _become_own_process(selector, listener, connection, outputs)
        os.environ.update(request.env)
        return request
    _close(set(outputs))
    child = _Child(os.pidfd_open(pid), connection, tied=request.program is not None)
    selector.register(child.pidfd, selectors.EVENT_READ, child)
    if child.tied:
        selector.register(connection, selectors.EVENT_READ, child)
    _send(connection, {"pid": pid})
    return None


def _refuse_other_users(connection: socket.socket) -> None:
    """Raise BadRequestError unless the client is a process of this user."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user = _CREDENTIALS.unpack(credentials)[1]
    if user != os.geteuid():
        message = f"the client must be a process of user {os.geteuid()}, it is one of user {user}"
        raise BadRequestError(message)


def _outputs(request: Request, passed: list[int]) -> tuple[int, ...]:
    """Return the descriptors for input, output and error of the child; none where it keeps the fork server's output."""
    if request.program is not None:
        if len(passed) != _PROGRAM_DESCRIPTORS:
            message = f"a program needs {_PROGRAM_DESCRIPTORS} file descriptors, got {len(passed)}"
            raise BadRequestError(message)
        return tuple(passed)
    if passed:
        message = "only a program takes file descriptors"
        raise BadRequestError(message)
    logs = () if request.log is None else (os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),) * 2
    return (os.open(os.devnull, os.O_RDONLY), *logs)


def _read_line(connection: socket.socket, passed: list[int]) -> bytes:
    """Return the request line; the file descriptors that came with it are added to `passed`."""
    received = b""
    while not received.endswith(b"\n") and len(received) < _MAX_REQUEST_BYTES:
        chunk, descriptors, _flags, _address = socket.recv_fds(connection, 65536, _PROGRAM_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        passed += descriptors
        if not chunk:
            break
        received += chunk
    return received


def _close(descriptors: list[int] | set[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _send(connection: socket.socket, document: Mapping[str, object]) -> None:
    try:
        connection.sendall(json.dumps(document).encode() + b"\n")
    except OSError:  # who asked has gone; the server is not theirs alone
        return


def _report_exit(selector: selectors.BaseSelector, child: _Child) -> None:
    status = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    selector.unregister(child.pidfd)
    with suppress(KeyError):
        selector.unregister(child.connection)
    os.close(child.pidfd)
    if status is not None:
        ended_by_itself = status.si_code == os.CLD_EXITED
        _send(child.connection, {"exit": status.si_status if ended_by_itself else -status.si_status})
    child.connection.close()


def _become_own_process(
    selector: selectors.BaseSelector, listener: socket.socket, connection: socket.socket, outputs: tuple[int, ...]
) -> None:
    """In the child: close the descriptors of the fork server, and take the requested input and output."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    for key in list(selector.get_map().values()):
        if isinstance(key.data, _Child) and key.fd == key.data.pidfd:
            os.close(key.data.pidfd)
            key.data.connection.close()
    selector.close()
    listener.close()
    connection.close()
    for number, descriptor in enumerate(outputs):
        os.dup2(descriptor, number)
    _close(set(outputs))


def _run(program: str, argv: tuple[str, ...], parent: int) -> NoReturn:
    """Run a program in this process, once its client lets it begin, and end with its exit code."""
    end_with_parent(parent)
    if not os.read(0, 1):
        os._exit(0)  # its client has gone, or runs it elsewhere
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    code = programs.run(program, argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take down all imported modules writes to the pages that this process shares with the fork server
