"""The zygote of a sandbox: a lean Python that confines itself once, then forks a judge per sample. A script: argv[1] are its settings.

    platform ═ control ═ zygote ─ fork ─ judge ─ fork ─ cell
        ╚═══════ one socket per sample ════╝

It never sees a job: each comes on a socket of its own that is handed on to the judge. What all samples share is set up here, once:
namespaces and a root that shows Python's library, user nobody, no privileges, Landlock, the filters of system calls, the usual modules.

control in: {"cpu_s", "wall_s", "memory_bytes", "grace_s"} with the sample's socket; its end ends the zygote and all that it has forked.
control out: once {"level"} or {"fault"}. A sample's socket: the judge's verdict, or from here {"judge": "late" or how it died}.
"""

from __future__ import annotations

import gc
import json
import math
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evals.sandbox import judge, landlock, linux, seccomp
from evals.sandbox.ground import Ground, Limits

sys.path.pop(0)

_LOADED = (
    *("abc", "array", "base64", "bisect", "calendar", "cmath", "collections", "collections.abc", "contextlib", "copy", "dataclasses"),
    *("datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math", "numbers"),
    *("operator", "queue", "random", "re", "statistics", "string", "struct", "textwrap", "time", "traceback", "types", "typing"),
    *("unicodedata", "warnings"),
)
"""Loaded before the first fork, so that no sample waits for them."""
_SYSTEM = ("/usr/lib", "/lib", "/lib64", "/usr/lib64")
_ORPHAN_S = 1.0


def main() -> NoReturn:
    """Confine, say how well, serve."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    control.set_inheritable(False)
    try:
        for name in _LOADED:
            __import__(name)
        ground, level = _confine(settings, control)
    except OSError as error:
        control.send(json.dumps({"fault": f"{error.strerror} ({error.filename or 'set-up'})"}).encode())
        os._exit(1)
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"level": level}).encode())
    os.dup2(0, 2)  # from here on nobody reads what it says
    _Nursery(control, ground).serve()
    os._exit(0)


def _confine(settings: dict[str, Any], control: socket.socket) -> tuple[Ground, str]:
    """Give up everything that neither judges nor cells need, and return what is prepared for them and the level reached."""
    if not seccomp.knows():
        raise OSError(0, f"no filter of system calls for {os.uname().machine}: x86_64 and aarch64 have one")
    library = Path(os.__file__).resolve().parent
    home = os.open(library, os.O_PATH | os.O_DIRECTORY)
    place = Path(settings["place"])
    namespaces = settings["namespaces"] and _permitted(place, library)
    if namespaces:
        linux.own_namespaces()
        _stand_behind(control)
        linux.die_with_parent()
        linux.own_root(place, _shown(library))
    linux.drop_privileges()
    linux.hide_memory()
    linux.inherit_orphans()
    if namespaces:
        linux.die_with_parent()  # the change of user has cleared it
    _live_in(library, home)
    rules = landlock.ruleset([".", *_system()]) if settings["landlock"] and landlock.version() else None
    if rules is not None:
        landlock.restrict(rules)
    looking = namespaces or rules is not None
    ground = Ground(seccomp.program(looking=looking), seccomp.program(looking=True, judging=True), rules)
    parts = ["seccomp", *(["landlock"] if rules is not None else []), *(["namespaces"] if namespaces else [])]
    return ground, "+".join(parts if looking else [*parts, "rlimits"])


def _permitted(place: Path, library: Path) -> bool:
    """Try namespaces in a child: what fails half way would leave this process between two worlds."""
    child = os.fork()
    if child == 0:
        try:
            linux.own_namespaces()
            linux.own_root(place, _shown(library))
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _stand_behind(control: socket.socket) -> None:
    """Return in a child, the first process of the namespace; stay behind until it ends."""
    child = os.fork()
    if child == 0:
        return
    control.close()
    os.waitpid(child, 0)
    os._exit(0)


def _system() -> list[Path]:
    return [path for path in map(Path, _SYSTEM) if path.is_dir()]


def _shown(library: Path) -> list[Path]:
    """Return the folders that Python's own modules need: its library, and those of the system that they are linked to."""
    system = _system()
    covered = any(library.is_relative_to(path) for path in system)
    return system if covered else [*system, library]


def _live_in(library: Path, home: int) -> None:
    """Make Python's library the working folder and find modules from there: nobody may not walk to one that is below /root."""
    if os.access(library / "os.py", os.R_OK):
        os.chdir(library)
    else:
        os.fchdir(home)
    os.close(home)
    if not os.access("os.py", os.R_OK):
        raise PermissionError(1, "the user of the cells may not read Python's library", str(library))
    sys.path[:] = [".", "./lib-dynload"]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):  # packages look for their parts where they were found
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(str(library), ".") for path in module.__path__]


@dataclass(slots=True)
class _Sample:
    """A judge at work: its socket, and until when it may be."""

    wire: socket.socket
    due: float
    late: bool = False


class _Nursery:
    """Forks judges, ends those that hang, and answers for those that died. Never blocks on any of them."""

    def __init__(self, control: socket.socket, ground: Ground) -> None:
        self._control = control
        self._ground = ground
        self._samples: dict[int, _Sample] = {}
        self._bereft: list[_Sample] = []
        """Samples whose judge died before its cell: they are answered when the cell is gone too."""
        self._woken, waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Return when the platform has hung up and every judge is killed."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _events in poll.poll(self._patience_ms())}
            if self._woken in ready:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            self._reap()
            self._end_late_ones()
            if self._control.fileno() in ready and not self._take():
                break
        for pid in self._samples:
            os.kill(pid, signal.SIGKILL)

    def _patience_ms(self) -> float | None:
        due = [sample.due for sample in [*self._samples.values(), *self._bereft] if sample.due < math.inf]
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _take(self) -> bool:
        """Fork a judge for the next sample. Return False when the platform has hung up."""
        try:
            message, descriptors, _flags, _address = socket.recv_fds(self._control, 4096, 1)
        except ConnectionResetError:
            return False
        if not message:
            return False
        wire = socket.socket(fileno=descriptors[0])
        limits = Limits(**json.loads(message))
        pid = os.fork()
        if pid == 0:
            self._be_judge(wire, limits)
        self._samples[pid] = _Sample(wire, time.monotonic() + limits.wall_s + limits.grace_s)
        return True

    def _be_judge(self, wire: socket.socket, limits: Limits) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            linux.die_with_parent()
            judge.judge(self._ground, limits, wire.detach())
        except BaseException as error:  # noqa: BLE001 - nothing may return into the zygote's loop
            os._exit(2 if isinstance(error, OSError) else 1)
        os._exit(0)

    def _reap(self) -> None:
        while True:
            try:
                pid, waited = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            sample = self._samples.pop(pid, None)
            if sample is None:  # an orphan: the cell of a judge that is gone
                if self._bereft:
                    self._answer(self._bereft.pop(0), "late")
            elif sample.late:
                sample.due = time.monotonic() + _ORPHAN_S
                self._bereft.append(sample)
            elif waited == 0:
                sample.wire.close()
            else:
                self._answer(sample, f"it ended with {os.waitstatus_to_exitcode(waited)}")

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for pid, sample in self._samples.items():
            if sample.due <= now and not sample.late:
                sample.late, sample.due = True, math.inf
                os.kill(pid, signal.SIGKILL)
        while self._bereft and self._bereft[0].due <= now:
            self._answer(self._bereft.pop(0), "late")

    def _answer(self, sample: _Sample, how: str) -> None:
        with suppress(BrokenPipeError, BlockingIOError):
            sample.wire.send(json.dumps({"judge": how}).encode() + b"\n", socket.MSG_DONTWAIT)
        sample.wire.close()


if __name__ == "__main__":
    main()
