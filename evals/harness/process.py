"""The platform's end of the child: started early, kept for the next run, ended with what it was told to do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from core.errors import Fault, NotFound, Refused, SeatrialError, Transient
from core.reasons import read_reason
from core.settings import base_environ
from evals.harness.job import ERROR, READY, line

_ROOT = Path(__file__).resolve().parents[2]
_KEPT_NAMES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_NETWORK_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_FRESH_S = 540.0  # the child exits after ten minutes without a job; a margin, so that it does not exit while it gets one
_START_LIMIT_S = 1800.0  # its imports take 3 s alone, and minutes on a machine at a load of 70
_END_LIMIT_S = 5.0
_LOG_LINES = 20


class Child:
    """A running child process. For one user at a time; to be closed. Errors: Fault when it dies, and what it raised itself."""

    def __init__(self, *, network: bool = False) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evals.harness.child"],
            cwd=_ROOT,
            env=_environ(network=network),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._came: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._log: deque[bytes] = deque(maxlen=_LOG_LINES)
        self._ready = False
        self._readers = [threading.Thread(target=target, name="harness", daemon=True) for target in (self._listen, self._keep_log)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def say(self, kind: str, **fields: Any) -> None:
        """Send a line."""
        pipe = self._process.stdin
        try:
            if pipe is not None:
                pipe.write(line(kind, **fields))
                pipe.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._died() from error

    def next(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Return what it says next, READY apart. Raises Empty after `timeout_s`, what the child told as an error, Fault when it died."""
        if not self._ready:
            self._await_ready()
        message = self._came.get(timeout=timeout_s)
        if message is None:
            self._came.put(None)
            raise self._died()
        if message["kind"] == ERROR:
            raise _error(message)
        return message

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End it: politely by the end of its input, then not. Closing twice does nothing."""
        with suppress(BrokenPipeError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(_END_LIMIT_S)

    def _await_ready(self) -> None:
        try:
            message = self._came.get(timeout=_START_LIMIT_S)
        except Empty as error:
            what = f"the benchmark's child process {self._process.pid} did not start lm-eval within {_START_LIMIT_S:.0f} s"
            raise Fault(what, hint="look at the machine's load, then run the benchmark again: it resumes") from error
        if message is None or message["kind"] != READY:
            raise self._died()
        self._ready = True

    def _listen(self) -> None:
        pipe = self._process.stdout
        with suppress(ValueError, OSError), pipe or nullcontext(()) as lines:
            for text in lines:
                self._came.put(json.loads(text))
        self._came.put(None)

    def _keep_log(self) -> None:
        pipe = self._process.stderr
        with suppress(ValueError, OSError), pipe or nullcontext(()) as lines:
            self._log.extend(lines)

    def _died(self) -> Fault:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_LIMIT_S)
        last = self._log[-1].decode("utf-8", "replace").strip()[:300] if self._log else "it said nothing"
        return Fault(f"the benchmark's child process ended with {self._process.returncode}: {last}", hint="run it again: it resumes")


class _Spare:
    """At most one child in waiting."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._since = 0.0
        self._lock = threading.Lock()

    def warm(self) -> None:
        with self._lock:
            if self._child is None or not self._fresh(self._child):
                self._keep(Child())

    def take(self) -> Child:
        with self._lock:
            child, self._child = self._child, None
            if child is not None and self._fresh(child):
                return child
        if child is not None:
            child.close()
        return Child()

    def give(self, child: Child) -> None:
        with self._lock:
            if self._child is None and child.alive:
                self._keep(child)
                return
        child.close()

    def _keep(self, child: Child) -> None:
        self._child, self._since = child, time.monotonic()

    def _fresh(self, child: Child) -> bool:
        return child.alive and time.monotonic() - self._since < _FRESH_S


_SPARE = _Spare()


def warm() -> None:
    """Start the child that the next `run_plan` of this process uses: importing lm-eval takes seconds. Does nothing when it already runs.

    An unused child exits after ten minutes, and with this process.
    """
    _SPARE.warm()


def take() -> Child:
    """Return the warm child, or a fresh one. Give it back, or close it."""
    return _SPARE.take()


def give(child: Child) -> None:
    """Keep a child whose job is done for the next one."""
    _SPARE.give(child)


def _environ(*, network: bool) -> dict[str, str]:
    """Return what the child may know of the environment: no keys, no tokens, no database."""
    names = _KEPT_NAMES + (_NETWORK_NAMES if network else ())
    kept = {name: value for name, value in base_environ().items() if name in names}
    quiet = {"TQDM_DISABLE": "1", "LMEVAL_LOG_LEVEL": "ERROR", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **quiet, "PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


def _error(message: Mapping[str, Any]) -> SeatrialError:
    what, hint = str(message["what"]), str(message["hint"])
    match message["error"]:
        case Transient.code:
            return Transient(what, hint=hint)
        case Refused.code:
            return Refused(what, reason=read_reason(message["reason"]), hint=hint)
        case NotFound.code:
            return NotFound(what, reason=read_reason(message["reason"]), hint=hint)
        case _:
            return Fault(what, hint=hint)
