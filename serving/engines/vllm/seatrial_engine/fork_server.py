"""The fork server: a warm process that forks vLLM servers, so that an engine starts in about two seconds.

It has imported everything and holds no thread and no model. The platform keeps one running and sends one line of JSON per engine
to its unix socket (readable by its owner only), and reads lines back on the same connection:

    > {"argv": ["--model", "/models/x", "--port", "8001"], "log": "/logs/x.log", "env": {"VLLM_LOGGING_LEVEL": "INFO"}}
    < {"pid": 4711}
    < {"exit": 0}          when the server has ended, if the client is still connected; negative: the signal that ended it

`log` takes standard output and error (appended); `log` and `env` may be left out; what is read
when a library is loaded (OMP_NUM_THREADS) must be in the fork server's own environment. A bad request gets `{"error": "..."}`. Closing
the connection changes nothing for the server. A server is a session of its own: it outlives the fork server, and a signal to the
fork server's process group does not reach it. The fork server ends on SIGTERM, and where its standard input is a pipe, when that
pipe closes, so it never outlives its parent.
"""

import json
import os
import selectors
import signal
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

_REQUEST_TIMEOUT_S: Final = 5.0
_MAX_REQUEST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """One server to fork."""

    argv: tuple[str, ...]
    log: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


class BadRequestError(ValueError):
    """The line is not a request; the message gives the reason."""


def serve_forks(socket_path: str) -> tuple[str, ...]:
    """Wait for requests and fork a process for each; return its argv, in that process only.

    In the fork server itself this never returns: it ends with SystemExit(0) on SIGTERM or when its standard input closes.
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
            return _fork_on_request(selector, listener)
        finally:
            if os.getpid() == parent:
                path.unlink(missing_ok=True)


def read_request(line: bytes) -> Request:
    """Parse one request line. Raises BadRequestError, which says what is wrong with it."""
    try:
        document = json.loads(line)
        argv, log, env = document["argv"], document.get("log"), document.get("env", {})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = "a request is one line of JSON with argv, and may have log and env"
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
    return Request(tuple(argv), None if log is None else Path(log), env)


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


def _fork_on_request(selector: selectors.BaseSelector, listener: socket.socket) -> tuple[str, ...]:
    """Serve the loop; return in a forked child with its argv."""
    while True:
        for key, _events in selector.select():
            if key.fileobj is listener:
                request = _accept(selector, listener)
                if request is not None:
                    return request.argv
            elif isinstance(key.data, _Child):
                _report_exit(selector, key.data)
            elif not os.read(sys.stdin.fileno(), 4096):
                raise SystemExit(0)


@dataclass(frozen=True, slots=True)
class _Child:
    pidfd: int
    connection: socket.socket


def _accept(selector: selectors.BaseSelector, listener: socket.socket) -> Request | None:
    """Answer one connection; return its request in the forked child, None in the fork server."""
    connection, _address = listener.accept()
    connection.settimeout(_REQUEST_TIMEOUT_S)
    try:
        request = read_request(_read_line(connection))
        log = _open_log(request)
    except (BadRequestError, OSError) as error:
        _send(connection, {"error": str(error)})
        connection.close()
        return None
    pid = os.fork()
    if pid == 0:
        _become_own_process(selector, listener, connection, log)
        os.environ.update(request.env)
        return request
    if log is not None:
        os.close(log)
    pidfd = os.pidfd_open(pid)
    selector.register(pidfd, selectors.EVENT_READ, _Child(pidfd, connection))
    _send(connection, {"pid": pid})
    return None


def _open_log(request: Request) -> int | None:
    return None if request.log is None else os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _read_line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n") and len(received) < _MAX_REQUEST_BYTES:
        chunk = connection.recv(65536)
        if not chunk:
            break
        received += chunk
    return received


def _send(connection: socket.socket, document: Mapping[str, object]) -> None:
    try:
        connection.sendall(json.dumps(document).encode() + b"\n")
    except OSError:  # who asked has gone; the server is not theirs alone
        return


def _report_exit(selector: selectors.BaseSelector, child: _Child) -> None:
    status = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    selector.unregister(child.pidfd)
    os.close(child.pidfd)
    if status is not None:
        ended_by_itself = status.si_code == os.CLD_EXITED
        _send(child.connection, {"exit": status.si_status if ended_by_itself else -status.si_status})
    child.connection.close()


def _become_own_process(selector: selectors.BaseSelector, listener: socket.socket, connection: socket.socket, log: int | None) -> None:
    """In the child: close the descriptors of the fork server, and write to the requested log."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    for key in list(selector.get_map().values()):
        if isinstance(key.data, _Child):
            os.close(key.data.pidfd)
            key.data.connection.close()
    selector.close()
    listener.close()
    connection.close()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if log is not None:
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
