"""Generated code runs in child processes: one cell per program, judged from outside the cell.

    platform ── judge (runs the suite's check) ══ pipe ══ init of the cell ── the program

The judge is a process of ours that never executes generated code: `candidate` in it is a stand-in that sends the arguments into the cell
and gets values back as data (`evals/confinement/wire.py`). So nothing that the program does to its own interpreter (patched builtins,
objects that equal everything, `os._exit(0)`, words on stdout) can make a check pass: it passes when the check returns in the judge. The
judge says so on a pipe that the cell does not have, with a nonce that was drawn for this one program after the cell was split off.

A cell has: an empty environment, no output, `python -I -S`, limits on CPU, address space, file size, open files and processes (none
beside itself), no capabilities, no new privileges; user `nobody` where the platform is root. Where the kernel permits (`isolation`
says): namespaces of its own for processes, network and IPC, and a root of its own, a small tmpfs that shows nothing but Python's
library and the system's, read-only; its end takes every process and file of it along. Elsewhere: its process group and every orphan
that the judge inherits as subreaper are killed, and its folder is removed.

Not covered: faults of the kernel (there is no filter of system calls). Where namespaces are not permitted, also not: the network,
reading what everyone may read, and how many files a program writes before its limits end it. Where the platform is not root either: its
files outside the folder, and signals to processes of the platform's user, for the program is of the same user.
The issue on trials brings the hardened sandbox behind this same port.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.ports.clock import Clock, SystemClock
from core.ports.sandbox import Program, RunOutcome, RunResult
from evals.text import storable

_JUDGE = Path(__file__).parent / "confinement" / "judge.py"
_GRACE_S = 5.0  # the judge keeps the program's own limit; this one is for a judge that hangs in the check itself
_DETAIL_CHARS = 500


class ProcessSandbox:
    """The Sandbox port with child processes. At most `workers` programs run at once, however many threads call `run`."""

    def __init__(self, workers: int, scratch: Path, *, namespaces: bool = True, clock: Clock | None = None) -> None:
        self._workers = workers
        self._scratch = scratch
        self._namespaces = namespaces
        self._clock = clock or SystemClock()
        self._slots = threading.BoundedSemaphore(workers)

    def run(self, programs: Sequence[Program]) -> tuple[RunResult, ...]:
        """See the port."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self._workers) as pool:
            return tuple(pool.map(self._run, programs))

    def isolation(self) -> str:
        """Return `namespaces` or `processes`: what this machine permits, found by running a program."""
        probe = Program("isolation", "def f():\n    import os\n    return os.getpid()\n", "def check(f):\n    assert f() < 3\n", "f")
        return "namespaces" if self.run([probe])[0].outcome is RunOutcome.PASSED else "processes"

    def _run(self, program: Program) -> RunResult:
        with self._slots:
            begin = self._clock.monotonic()
            folder = Path(tempfile.mkdtemp(prefix="cell-", dir=self._scratch))
            try:
                outcome, detail = self._judge(program, folder)
            finally:
                _remove(folder)
            return RunResult(program.id, outcome, storable(detail[:_DETAIL_CHARS]), self._clock.monotonic() - begin)

    def _judge(self, program: Program, folder: Path) -> tuple[RunOutcome, str]:
        nonce = secrets.token_hex(16)
        job = {
            "nonce": nonce,
            "code": program.code,
            "check": program.check,
            "entry_point": program.entry_point,
            "wall_s": program.wall_s,
        }
        settings = {
            "folder": str(folder.absolute()),
            "namespaces": self._namespaces,
            "cpu_s": program.cpu_s,
            "memory_bytes": program.memory_bytes,
        }
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(_JUDGE), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return RunOutcome.SANDBOX_FAULT, f"no child process: {error.strerror}"
        with process:
            try:
                said, errors = process.communicate(json.dumps(job).encode(), timeout=program.wall_s + _GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                _await_end(process)
                return RunOutcome.TIMED_OUT, f"the check did not end within {program.wall_s:g} s"
        return _verdict(said, errors, nonce)


def _remove(folder: Path) -> None:
    """Remove a cell's folder, and folders in it that a program of our own user has closed to us."""
    with suppress(OSError):
        folder.chmod(0o700)
        for parent, names, _files in os.walk(folder):
            for inner in (Path(parent, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(0o700)  # top-down: before the walk enters it
    shutil.rmtree(folder, ignore_errors=True)


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Return when a killed judge's cell is gone too (PR_SET_PDEATHSIG): the processes around the program hold the judge's stderr."""
    try:
        process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        return


def _verdict(said: bytes, errors: bytes, nonce: str) -> tuple[RunOutcome, str]:
    """Believe the judge's word only with the nonce; everything else is a fault of the sandbox."""
    try:
        word: Any = json.loads(said)
        if secrets.compare_digest(str(word["nonce"]), nonce):
            return RunOutcome(word["outcome"]), str(word["detail"])
    except (ValueError, KeyError, TypeError):
        pass
    last = (errors.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
    return RunOutcome.SANDBOX_FAULT, f"the judge gave no verdict: {last}"
