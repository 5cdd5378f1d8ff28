"""The zygote of a sandbox: a lean Python that confines itself once, then forks a cell per sample. A script: argv[1] are its settings.

    platform ═ control ═ zygote ─ fork ─ cell
        ╚═ jobs ═ judge ═ nursery ═╝      ║
                    ╚═════ calls ═════════╝

It never sees a job: those go to the judges, which it forks too, a few that stay. What all samples share is set up here, once:
namespaces and a root that shows Python's library, user nobody, no privileges, Landlock, the filters of system calls, the usual modules.

control in: a socket, which a new judge takes its jobs from; its end ends the zygote and all that it has forked.
control out: once {"level"} or {"fault"}. On a judge's socket, from here, only the last word: {"judge": "late" or how it died}.
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
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evals.sandbox import landlock, linux, seccomp
from evals.sandbox.cell import live, rehearse
from evals.sandbox.ground import BORN, END, GONE, LIMITS, Ground, Limits
from evals.sandbox.judge import judge_all

sys.path.pop(0)

_USUAL = (
    *("abc", "bisect", "collections", "collections.abc", "copy", "functools", "heapq", "io", "itertools", "json", "math", "operator"),
    *("random", "re", "string", "time", "types", "typing"),
)
"""Loaded before the first fork, so that no sample waits for them. Few: every page that a cell shares with the zygote costs the fork."""
_RARE = (
    *("array", "base64", "calendar", "cmath", "contextlib", "dataclasses", "datetime", "decimal", "enum", "fractions", "hashlib"),
    *("numbers", "queue", "statistics", "struct", "textwrap", "traceback", "unicodedata", "warnings"),
)
"""Loaded as well where a cell may open no file: the cell could not load them itself."""
_SYSTEM = ("/usr/lib", "/lib", "/lib64", "/usr/lib64")


def main() -> NoReturn:
    """Confine, say how well, serve."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    control.set_inheritable(False)
    try:
        for name in _USUAL:
            __import__(name)
        ground, level = _confine(settings, control)
    except OSError as error:
        control.send(json.dumps({"fault": f"{error.strerror} ({error.filename or 'set-up'})"}).encode())
        os._exit(1)
    rehearse()
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"level": level}).encode())
    os.dup2(0, 2)  # its output is not read from here on
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
    if namespaces:
        linux.die_with_parent()  # the change of user has cleared it
    _live_in(library, home)
    rules = landlock.ruleset([".", *_system()]) if settings["landlock"] and landlock.version() else None
    if rules is not None:
        landlock.restrict(rules)
    looking = namespaces or rules is not None
    for name in () if looking else _RARE:
        __import__(name)
    cell_filter, judge_filter = seccomp.program(looking=looking), seccomp.program(looking=True, judging=True)
    ground = Ground(seccomp.prepare(cell_filter), seccomp.prepare(judge_filter), rules)
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
    """Make Python's library the working folder and find modules from there: user nobody cannot traverse the path to one below /root."""
    if os.access(library / "os.py", os.R_OK):
        os.chdir(library)
    else:
        os.fchdir(home)
    os.close(home)
    if not os.access("os.py", os.R_OK):
        raise PermissionError(1, "the user of the cells may not read Python's library", str(library))
    sys.path[:] = [".", "./lib-dynload"]
    sys.path_hooks[:] = [_Here]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):  # packages look for their parts where they were found
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(str(library), ".") for path in module.__path__]


class _Here(FileFinder):
    """Finds modules from the working folder, as Python's own does, which asks for them by their whole path."""

    def __init__(self, path: str) -> None:
        super().__init__(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES))
        self.path = path

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = super().find_spec(fullname, target)
        if spec is not None and isinstance(spec.loader, ExtensionFileLoader | SourceFileLoader):
            spec.origin = spec.loader.path
        return spec


class _Judge:
    """A judge: its sockets to the platform and to here, its cell while it has one, and until when it may have it."""

    def __init__(self, pid: int, wire: socket.socket, nursery: socket.socket) -> None:
        self.pid = pid
        self.wire = wire
        self.nursery = nursery
        self.cell = 0
        self.due = math.inf


class _Nursery:
    """Forks judges, and cells for them; ends those that hang, and answers for those that died."""

    def __init__(self, control: socket.socket, ground: Ground) -> None:
        self._control = control
        self._ground = ground
        self._judges: dict[int, _Judge] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Return when the platform has hung up and everything forked is killed."""
        while True:
            for descriptor, _events in self._poll.poll(self._patience_ms()):
                if descriptor in self._judges:
                    self._hear(self._judges[descriptor])
                elif not self._take():
                    return self._end_all()
            self._end_late_ones()

    def _patience_ms(self) -> float | None:
        due = min((judge.due for judge in self._judges.values()), default=math.inf)
        return None if due == math.inf else max(0.0, due - time.monotonic()) * 1000 + 1

    def _take(self) -> bool:
        """Fork a judge for the socket that the platform sends. Return False when the platform has hung up."""
        try:
            _message, descriptors, _flags, _address = socket.recv_fds(self._control, 16, 1)
        except ConnectionResetError:
            return False
        if not descriptors:
            return False
        wire = socket.socket(fileno=descriptors[0])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            self._be_judge(wire, theirs)
        theirs.close()
        self._judges[ours.fileno()] = _Judge(pid, wire, ours)
        self._poll.register(ours, select.POLLIN)
        return True

    def _be_judge(self, wire: socket.socket, nursery: socket.socket) -> NoReturn:
        try:
            linux.die_with_parent()
            judge_all(self._ground, wire.detach(), nursery)
        except BaseException as error:  # noqa: BLE001 - nothing may return into the zygote's loop
            os._exit(2 if isinstance(error, OSError) else 1)
        os._exit(0)

    def _hear(self, judge: _Judge) -> None:
        """Do what a judge asks for, or see it off when it is gone."""
        try:
            word = judge.nursery.recv(LIMITS.size)
            if word == END:
                judge.nursery.send(GONE.pack(*self._end_cell(judge)))
            elif word:
                self._bear(judge, Limits(*LIMITS.unpack(word)))
            else:
                self._see_off(judge)
        except (BrokenPipeError, ConnectionResetError):
            self._see_off(judge)

    def _bear(self, judge: _Judge, limits: Limits) -> None:
        """Fork a cell and give the judge the other end of its socket."""
        theirs, cells = socket.socketpair()
        with theirs, cells:
            try:
                pid = os.fork()
            except OSError as error:
                judge.nursery.send(BORN.pack(error.errno or 0))
                return
            if pid == 0:
                live(self._ground, limits, cells.fileno())
            judge.cell, judge.due = pid, time.monotonic() + limits.wall_s + limits.grace_s
            theirs.setblocking(False)
            alive = os.pidfd_open(pid)
            try:
                socket.send_fds(judge.nursery, [BORN.pack(pid)], [theirs.fileno(), alive])
            finally:
                os.close(alive)

    def _end_cell(self, judge: _Judge) -> tuple[int, float]:
        """Kill a judge's cell; return its status and CPU seconds when it is gone."""
        if not judge.cell:
            return 0, 0.0
        os.kill(judge.cell, signal.SIGKILL)
        _pid, status, usage = os.wait4(judge.cell, 0)
        judge.cell, judge.due = 0, math.inf
        return status, usage.ru_utime + usage.ru_stime

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for judge in [judge for judge in self._judges.values() if judge.due <= now]:
            os.kill(judge.pid, signal.SIGKILL)
            self._see_off(judge, "late")

    def _see_off(self, judge: _Judge, how: str = "") -> None:
        """End what is left of a judge and its cell, and tell the platform, which may wait for a verdict."""
        self._poll.unregister(judge.nursery)
        del self._judges[judge.nursery.fileno()]
        judge.nursery.close()
        self._end_cell(judge)
        os.kill(judge.pid, signal.SIGKILL)  # it is ending: this does not change how
        _pid, status = os.waitpid(judge.pid, 0)
        word = {"judge": how or f"it ended with {os.waitstatus_to_exitcode(status)}"}
        with suppress(BrokenPipeError, BlockingIOError, ConnectionResetError):
            judge.wire.send(json.dumps(word).encode() + b"\n", socket.MSG_DONTWAIT)
        judge.wire.close()

    def _end_all(self) -> None:
        for judge in self._judges.values():
            self._end_cell(judge)
            os.kill(judge.pid, signal.SIGKILL)
            os.waitpid(judge.pid, 0)


if __name__ == "__main__":
    main()
