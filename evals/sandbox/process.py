"""The Sandbox port with child processes (docs/sandbox.md)."""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from core.errors import Fault
from core.ports.clock import Clock, SystemClock
from core.programs import Program, RunOutcome, RunResult
from evals.sandbox.messages import Limits
from evals.sandbox.self_test import run_self_test
from evals.sandbox.zygote_client import Lost, Means, ZygoteClient
from evals.text import storable

_GRACE_S = 5.0  # the judge applies the program's own limit; the grace applies to a judge that hangs in the check
_ANSWER_S = 10.0  # beyond both: a zygote that has not answered by then hangs
_DETAIL_CHARS = 500
_VERDICT_BYTES = 1 << 16
_ATTEMPTS = 2


class ProcessSandbox:
    """The Sandbox port. At most `workers` programs run at once, however many threads call `run`.

    Its zygote starts with the first program and must pass the self-test. It is restarted when it has died, and ends with this object.
    """

    def __init__(self, workers: int, scratch: Path, *, namespaces: bool = True, landlock: bool = True, clock: Clock | None = None) -> None:
        self._workers = workers
        self._scratch = scratch
        self._means = Means(namespaces=namespaces, landlock=landlock)
        self._clock = clock or SystemClock()
        self._slots = threading.BoundedSemaphore(workers)
        self._starting = threading.Lock()
        self._zygote: ZygoteClient | None = None

    def run(self, programs: Sequence[Program]) -> tuple[RunResult, ...]:
        """See the port."""
        if len(programs) <= 1:
            return tuple(self._run(program) for program in programs)
        with ThreadPoolExecutor(min(self._workers, len(programs)), "sandbox") as pool:
            return tuple(pool.map(self._run, programs))

    def isolation(self) -> str:
        """Return the level that this machine permits: `seccomp` and, joined by +, `landlock`, `namespaces`, or else `rlimits`.

        Raises Fault when the sandbox cannot start on this machine.
        """
        return self._ready().level

    def close(self) -> None:
        """End the zygote. The next `run` starts another."""
        with self._starting:
            if self._zygote is not None:
                self._zygote.close()
                self._zygote = None

    def _run(self, program: Program) -> RunResult:
        with self._slots:
            begin = self._clock.monotonic()
            detail = ""
            for _attempt in range(_ATTEMPTS):
                try:
                    zygote = self._ready()
                except Fault as error:
                    detail = str(error)
                    break
                try:
                    return self._judge(program, zygote, begin)
                except Lost as error:
                    detail = f"the sandbox's zygote has ended: {error}"
                    self._discard(zygote)
            return RunResult(program.id, RunOutcome.SANDBOX_FAULT, detail[:_DETAIL_CHARS], self._clock.monotonic() - begin)

    def _discard(self, zygote: ZygoteClient) -> None:
        """Stop using a zygote that does not answer, at once: its process may take some time to end."""
        with self._starting:
            if self._zygote is zygote:
                self._zygote = None
        zygote.close()

    def _ready(self) -> ZygoteClient:
        """Return a running zygote that has passed the self-test."""
        with self._starting:
            if self._zygote is None or not self._zygote.is_running():
                if self._zygote is not None:
                    self._zygote.close()
                self._zygote = self._start()
            return self._zygote

    def _start(self) -> ZygoteClient:
        self._scratch.mkdir(parents=True, exist_ok=True)
        zygote = ZygoteClient(self._scratch, self._means)
        try:
            run_self_test(lambda program: self._judge(program, zygote, self._clock.monotonic()))
        except Lost as error:
            raise Fault(f"the sandbox cannot start: its zygote died ({error})", hint="see docs/sandbox.md") from error
        except Fault:
            zygote.close()
            raise
        return zygote

    def _judge(self, program: Program, zygote: ZygoteClient, begin: float) -> RunResult:
        """Have one program judged. Raises Lost when the zygote ends meanwhile."""
        nonce = secrets.token_hex(16)
        job = {
            "nonce": nonce,
            "code": program.code,
            "check": program.check,
            "given": program.given,
            "entry_point": program.entry_point,
            "limits": Limits(program.cpu_s, program.wall_s, program.memory_bytes, _GRACE_S),
        }
        with zygote.judge() as judge:
            judge.channel.settimeout(program.wall_s + _GRACE_S + _ANSWER_S)
            said = _exchange(judge.channel, json.dumps(job).encode() + b"\n", zygote)
            outcome, detail, cpu_s, judge.last = _verdict(said, nonce, program.wall_s)
        seconds = self._clock.monotonic() - begin
        return RunResult(program.id, outcome, storable(detail[:_DETAIL_CHARS]), seconds, cpu_s, zygote.level)


def _exchange(channel: socket.socket, job: bytes, zygote: ZygoteClient) -> bytes:
    """Send the job and return the answer. Raises Lost when there is none."""
    try:
        channel.sendall(job)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the judge has ended: the zygote sends the reason
    except TimeoutError as error:
        zygote.close()
        raise Lost("no judge takes the job") from error
    said = b""
    try:
        while not said.endswith(b"\n") and len(said) < _VERDICT_BYTES:
            piece = channel.recv(_VERDICT_BYTES)
            if not piece:
                raise Lost("it died")
            said += piece
    except TimeoutError as error:
        zygote.close()
        raise Lost("it does not answer") from error
    except ConnectionResetError as error:
        raise Lost("it died") from error
    return said


def _verdict(said: bytes, nonce: str, wall_s: float) -> tuple[RunOutcome, str, float, bool]:
    """Return outcome, detail, CPU seconds, and whether this judge takes no more jobs.

    A verdict of the judge counts only with the nonce. The zygote reports that a judge has ended.
    """
    try:
        word: Any = json.loads(said.partition(b"\n")[0])  # a line of the zygote may follow the judge's last line
        if "judge" in word:
            late = word["judge"] == "late"
            outcome = RunOutcome.TIMED_OUT if late else RunOutcome.SANDBOX_FAULT
            return outcome, f"the check did not end within {wall_s:g} s" if late else f"the judge died: {word['judge']}", 0.0, True
        if secrets.compare_digest(str(word["nonce"]), nonce):
            return RunOutcome(word["outcome"]), str(word["detail"]), float(word["cpu_s"]), bool(word["last"])
    except (ValueError, KeyError, TypeError):
        pass
    return RunOutcome.SANDBOX_FAULT, "the judge gave no verdict", 0.0, True
