"""The zygote of a sandbox: a Python process that confines itself once, then forks a cell per sample. A script: argv[1] are its settings.

    platform ═ control ═ zygote ─ fork ─ cell
        ╚═ jobs ═ judge ═ requests ╝      ║
                    ╚═════ calls ═════════╝

It never receives a job: jobs go to the judges, a few long-lived processes that it forks too. It sets up once the environment of all
samples: namespaces, a root with Python's library, user nobody, no privileges, Landlock, system call filters, and common modules.

control, input: the socket from which a new judge receives its jobs; its end ends the zygote and all processes that it has forked.
control, output: once {"level"} or {"fault"}. On a judge's socket the zygote writes only the last line: {"judge": "late" or its exit}.
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
from types import ModuleType
from typing import Any, NoReturn

sys.path.insert(0, os.path.realpath(__file__).rsplit("/", 3)[0])

from evals.sandbox import landlock, linux, seccomp
from evals.sandbox.cell import rehearse, run_cell
from evals.sandbox.judge import judge_all
from evals.sandbox.messages import END, EXITED, KILL, LIMITS, STARTED, Confinement, Limits

sys.path.pop(0)

_USUAL = (
    *("abc", "bisect", "collections", "collections.abc", "copy", "functools", "heapq", "io", "itertools", "json", "math", "operator"),
    *("random", "re", "string", "time", "types", "typing"),
)
"""Loaded before the first fork, so that no sample waits for them. Few, because a fork copies the table of every page of the zygote."""
_RARE = (
    *("array", "base64", "calendar", "cmath", "contextlib", "dataclasses", "datetime", "decimal", "enum", "fractions", "hashlib"),
    *("ipaddress", "numbers", "pathlib", "platform", "queue", "statistics", "struct", "textwrap", "traceback", "unicodedata"),
    *("urllib.parse", "warnings"),
)
"""Also loaded where a cell may open no file and therefore cannot load them."""
_SYSTEM = ("/usr/lib", "/lib", "/lib64", "/usr/lib64")


def main() -> NoReturn:
    """Confine the process, report the level, serve."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    control = socket.socket(fileno=settings["control"])
    control.set_inheritable(False)
    try:
        for name in _USUAL:
            __import__(name)
        confinement, level = _confine(settings, control)
    except OSError as error:
        control.send(json.dumps({"fault": f"{error.strerror} ({error.filename or 'set-up'})"}).encode())
        os._exit(1)
    rehearse()
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"level": level}).encode())
    os.dup2(0, 2)  # the platform does not read its output any more
    _ForkServer(control, confinement).serve()
    os._exit(0)


def _confine(settings: dict[str, Any], control: socket.socket) -> tuple[Confinement, str]:
    """Drop every privilege that neither judges nor cells need. Return the confinement prepared for them, and its level."""
    if not seccomp.knows():
        raise OSError(0, f"no filter of system calls for {os.uname().machine}: x86_64 and aarch64 have one")
    library = os.path.dirname(os.path.realpath(os.__file__))
    home = os.open(library, os.O_PATH | os.O_DIRECTORY)
    place = str(settings["place"])
    namespaces = settings["namespaces"] and _permitted(place, library)
    if namespaces:
        linux.own_namespaces()
        _become_first_process(control)
        linux.die_with_parent()
        linux.own_root(place, _shown(library))
    linux.drop_privileges()
    linux.hide_memory()
    if namespaces:
        linux.die_with_parent()  # the change of user has cleared it
    _use_library(library, home)
    rules = landlock.ruleset([".", *_system()]) if settings["landlock"] and landlock.version() else None
    if rules is not None:
        landlock.restrict(rules)
    looking = namespaces or rules is not None
    for name in () if looking else _RARE:
        __import__(name)
    cell_filter, judge_filter = seccomp.program(looking=looking), seccomp.program(looking=True, judging=True)
    confinement = Confinement(seccomp.prepare(cell_filter), seccomp.prepare(judge_filter), rules)
    parts = ["seccomp", *(["landlock"] if rules is not None else []), *(["namespaces"] if namespaces else [])]
    return confinement, "+".join(parts if looking else [*parts, "rlimits"])


def _permitted(place: str, library: str) -> bool:
    """Return whether a child succeeds in entering namespaces: a partial failure here could not be undone."""
    child = os.fork()
    if child == 0:
        try:
            linux.own_namespaces()
            linux.own_root(place, _shown(library))
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _become_first_process(control: socket.socket) -> None:
    """Fork and return in the child, the first process of the namespace. The parent waits for its end."""
    child = os.fork()
    if child == 0:
        return
    control.close()
    os.waitpid(child, 0)
    os._exit(0)


def _system() -> list[str]:
    return [path for path in _SYSTEM if os.path.isdir(path)]


def _shown(library: str) -> list[str]:
    """Return the folders that Python's own modules need: its library, and the system libraries that they link to."""
    system = _system()
    covered = any(library == path or library.startswith(path + "/") for path in system)
    return system if covered else [*system, library]


def _use_library(library: str, home: int) -> None:
    """Make Python's library the working folder and find modules from there: user nobody cannot traverse the path to one below /root."""
    if os.access(library + "/os.py", os.R_OK):
        os.chdir(library)
    else:
        os.fchdir(home)
    os.close(home)
    if not os.access("os.py", os.R_OK):
        raise PermissionError(1, "the user of the cells may not read Python's library", library)
    sys.path[:] = [".", "./lib-dynload"]
    sys.path_hooks[:] = [_Here]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):  # packages look for their parts where they were found
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(library, ".") for path in module.__path__]


class _Here(FileFinder):
    """Finds modules by a path relative to the working folder. Python's own finder makes paths absolute."""

    def __init__(self, path: str) -> None:
        super().__init__(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES))
        self.path = path

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = super().find_spec(fullname, target)
        if spec is not None and isinstance(spec.loader, ExtensionFileLoader | SourceFileLoader):
            spec.origin = spec.loader.path
        return spec


class _Judge:
    """A judge: its socket to the platform, its socket to the zygote, the pid of its cell (0 without one), and the deadline of its job."""

    def __init__(self, pid: int, channel: socket.socket, requests: socket.socket) -> None:
        self.pid = pid
        self.channel = channel
        self.requests = requests
        self.cell = 0
        self.due = math.inf


class _ForkServer:
    """Forks judges, and cells for them. Ends judges that hang, and reports those that have ended."""

    def __init__(self, control: socket.socket, confinement: Confinement) -> None:
        self._control = control
        self._confinement = confinement
        self._judges: dict[int, _Judge] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> None:
        """Serve until the platform closes the control socket. Every forked process is then killed."""
        while True:
            for descriptor, _events in self._poll.poll(self._patience_ms()):
                if descriptor in self._judges:
                    self._handle(self._judges[descriptor])
                elif not self._start_judge():
                    return self._end_all()
            self._end_late_ones()

    def _patience_ms(self) -> float | None:
        due = min((judge.due for judge in self._judges.values()), default=math.inf)
        return None if due == math.inf else max(0.0, due - time.monotonic()) * 1000 + 1

    def _start_judge(self) -> bool:
        """Fork a judge for the socket that the platform sends. Return False when the platform has closed the control socket."""
        try:
            _message, descriptors, _flags, _address = socket.recv_fds(self._control, 16, 1)
        except ConnectionResetError:
            return False
        if not descriptors:
            return False
        channel = socket.socket(fileno=descriptors[0])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            self._run_judge(channel, theirs)
        theirs.close()
        self._judges[ours.fileno()] = _Judge(pid, channel, ours)
        self._poll.register(ours, select.POLLIN)
        return True

    def _run_judge(self, channel: socket.socket, requests: socket.socket) -> NoReturn:
        try:
            linux.die_with_parent()
            judge_all(self._confinement, channel.detach(), requests)
        except BaseException as error:  # noqa: BLE001 - nothing may return into the zygote's loop
            os._exit(2 if isinstance(error, OSError) else 1)
        os._exit(0)

    def _handle(self, judge: _Judge) -> None:
        """Serve one request of a judge, or remove the judge when it has ended."""
        try:
            word = judge.requests.recv(LIMITS.size)
            if word in (END, KILL):
                judge.requests.send(EXITED.pack(*self._end_cell(judge)))
                if word == END:
                    judge.due = math.inf
            elif word:
                self._start_cell(judge, Limits(*LIMITS.unpack(word)))
            else:
                self._remove(judge)
        except (BrokenPipeError, ConnectionResetError):
            self._remove(judge)

    def _start_cell(self, judge: _Judge, limits: Limits) -> None:
        """Fork a cell and send the judge the other end of its socket."""
        theirs, cells = socket.socketpair()
        with theirs, cells:
            try:
                pid = os.fork()
            except OSError as error:
                judge.requests.send(STARTED.pack(error.errno or 0))
                return
            if pid == 0:
                run_cell(self._confinement, limits, cells.fileno())
            judge.cell, judge.due = pid, time.monotonic() + limits.wall_s + limits.grace_s
            theirs.setblocking(False)
            alive = os.pidfd_open(pid)
            try:
                socket.send_fds(judge.requests, [STARTED.pack(pid)], [theirs.fileno(), alive])
            finally:
                os.close(alive)

    def _end_cell(self, judge: _Judge) -> tuple[int, float]:
        """Kill a judge's cell, and return its wait status and CPU seconds."""
        if not judge.cell:
            return 0, 0.0
        os.kill(judge.cell, signal.SIGKILL)
        _pid, status, usage = os.wait4(judge.cell, 0)
        judge.cell = 0
        return status, usage.ru_utime + usage.ru_stime

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for judge in [judge for judge in self._judges.values() if judge.due <= now]:
            os.kill(judge.pid, signal.SIGKILL)
            self._remove(judge, "late")

    def _remove(self, judge: _Judge, how: str = "") -> None:
        """End a judge and its cell, and report it to the platform, which may wait for a verdict."""
        self._poll.unregister(judge.requests)
        del self._judges[judge.requests.fileno()]
        judge.requests.close()
        self._end_cell(judge)
        os.kill(judge.pid, signal.SIGKILL)  # if it has already ended, its exit status stays
        _pid, status = os.waitpid(judge.pid, 0)
        word = {"judge": how or f"it ended with {os.waitstatus_to_exitcode(status)}"}
        with suppress(BrokenPipeError, BlockingIOError, ConnectionResetError):
            judge.channel.send(json.dumps(word).encode() + b"\n", socket.MSG_DONTWAIT)
        judge.channel.close()

    def _end_all(self) -> None:
        for judge in self._judges.values():
            self._end_cell(judge)
            os.kill(judge.pid, signal.SIGKILL)
            os.waitpid(judge.pid, 0)


if __name__ == "__main__":
    main()
