"""The first process of an engine's pod: starts the server, tells the kubelet when it is ready, and why it ended.

    python -m seatrial_engine.pod --module seatrial_engine.serve --status-port 8001 --model-folder /model -- VLLM_ARGUMENTS...

- A model in S3: its small files are fetched into the model folder first. Weights are not; the loader reads them where they lie.
- `GET :8001/ready` answers 200 only after a completion came out of this very server, and while its /health does.
- SIGTERM goes on to the server, which finishes the answers in flight.
- What the server says goes on to the pod's log; its most telling last lines become the termination message, which the platform shows.

Standard library only: it stays in memory beside the server.
"""

import argparse
import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Final

_MESSAGE_FILE: Final = Path("/dev/termination-log")
_MESSAGE_BYTES: Final = 3800  # the kubelet keeps 4096
_KEPT_LINES: Final = 600
_LAST_LINES: Final = 8
_POLL_S: Final = 0.5
_HEALTH_S: Final = 3.0
_GENERATION_S: Final = 120.0
_OURS: Final = "seatrial: "
_TELLING: Final = re.compile(r"Error\b|Exception\b|[Oo]ut of memory|No space left|not supported|Killed|already in use|larger than")


@dataclass(frozen=True, slots=True)
class Server:
    """The server as it is asked: its port, and the name that a completion is asked of."""

    port: int
    model: str

    def healthy(self) -> bool:
        """GET /health."""
        return self._status("GET", "/health", None, _HEALTH_S) == HTTPStatus.OK

    def generates(self) -> bool:
        """POST /v1/completions for one token."""
        body = json.dumps({"model": self.model, "prompt": "def", "max_tokens": 1, "temperature": 0})
        return self._status("POST", "/v1/completions", body, _GENERATION_S) == HTTPStatus.OK

    def _status(self, method: str, path: str, body: str | None, timeout_s: float) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return None
        else:
            return response.status
        finally:
            connection.close()


class Readiness:
    """Ready once a completion came out, and from then on while the server is healthy."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._generated = threading.Event()
        self._over = threading.Event()

    def await_first(self) -> None:
        """Ask until one completion came out. For a thread of its own."""
        while not self._over.is_set():
            if self._server.healthy() and self._server.generates():
                self._generated.set()
                return
            self._over.wait(_POLL_S)

    def now(self) -> bool:
        """Tell whether it is ready."""
        return self._generated.is_set() and not self._over.is_set() and self._server.healthy()

    def end(self) -> None:
        """Be ready no more."""
        self._over.set()


class Output:
    """Hands a child's lines on, and keeps the last ones."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def drain(self, stream: IO[bytes]) -> None:
        """Read to the end of the child's output."""
        for line in stream:
            self._sink.write(line)
            self._sink.flush()
            self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))


def termination_message(lines: Sequence[str], limit: int = _MESSAGE_BYTES) -> str:
    """Choose what of a log tells why it ended, in its own order: our own lines first, then errors, then the very last lines."""
    ranked = [number for number, line in enumerate(lines) if _OURS in line and "refused" in line]
    ranked += [number for number, line in enumerate(lines) if _OURS in line]
    ranked += [number for number, line in enumerate(lines) if _TELLING.search(line)]
    ranked += range(max(0, len(lines) - _LAST_LINES), len(lines))
    chosen: set[int] = set()
    for number in ranked:
        cost = len(lines[number].encode()) + 1
        if number not in chosen and cost <= limit:
            chosen.add(number)
            limit -= cost
    return "\n".join(lines[number] for number in sorted(chosen))


def run(command: Sequence[str], output: Output, stop: "Stop") -> int:
    """Run a child to its end and return its exit code, as a shell does (128 + signal)."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        stop.follow(child)
        assert child.stdout is not None  # noqa: S101 - it was given a pipe
        output.drain(child.stdout)
        code = child.wait()
    return code if code >= 0 else 128 - code


class Stop:
    """SIGTERM and SIGINT go on to the child, also when they come before it is there."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self.asked = False

    def install(self) -> None:
        """Catch the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)

    def follow(self, child: "subprocess.Popen[bytes]") -> None:
        """Pass signals on to this child from now on."""
        self._child = child
        if self.asked:
            child.terminate()

    def _pass_on(self, _number: int, _frame: object) -> None:
        self.asked = True
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()


def status_server(port: int, readiness: Readiness) -> ThreadingHTTPServer:
    """Return the server that the kubelet asks; it runs in threads of its own."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing: the kubelet asks every other second."""

        def do_GET(self) -> None:
            """Answer /ready."""
            known = self.path == "/ready"
            status = HTTPStatus.NOT_FOUND if not known else HTTPStatus.OK if readiness.now() else HTTPStatus.SERVICE_UNAVAILABLE
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)  # noqa: S104 - the kubelet asks from outside
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def value_of(flags: Sequence[str], name: str) -> str:
    """Return what follows a flag; empty when it is not there."""
    return flags[flags.index(name) + 1] if name in flags[:-1] else ""


def serve(module: str, flags: list[str], status_port: int, model_folder: str, output: Output, stop: Stop) -> int:
    """Fetch what must be fetched, then be the server until it ends."""
    model = value_of(flags, "--model")
    if model.startswith("s3://"):
        code = run([sys.executable, "-m", "seatrial_engine.fetch", model, model_folder], output, stop)
        if code != 0 or stop.asked:
            return code
        flags[flags.index("--model") + 1] = model_folder
    readiness = Readiness(Server(int(value_of(flags, "--port")), value_of(flags, "--served-model-name")))
    threading.Thread(target=readiness.await_first, daemon=True).start()
    status = status_server(status_port, readiness)
    try:
        return run([sys.executable, "-m", module, *flags], output, stop)
    finally:
        readiness.end()
        status.shutdown()


def main(argv: Sequence[str], message_file: Path = _MESSAGE_FILE) -> int:
    """Run the pod's life and return its exit code."""
    parser = argparse.ArgumentParser(prog="seatrial_engine.pod", allow_abbrev=False)
    parser.add_argument("--module", default="seatrial_engine.serve")
    parser.add_argument("--status-port", type=int, default=8001)
    parser.add_argument("--model-folder", default="/model")
    parser.add_argument("flags", nargs="*")
    given = parser.parse_args(argv)
    output, stop = Output(sys.stdout.buffer), Stop()
    stop.install()
    code = serve(given.module, list(given.flags), given.status_port, given.model_folder, output, stop)
    if stop.asked:
        return code
    with contextlib.suppress(OSError):
        message_file.write_text(termination_message(list(output.lines)), encoding="utf-8")
    return code or 1  # vLLM's server ends with 0 when its engine process is gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
