"""Judges programs, one after the other: the suite's checks run here, each program in a cell of its own. Never executes generated code.

In on its socket, a line each: {"nonce", "code", "check", "given", "entry_point", "limits"}. Out, a line each: {"nonce", "outcome",
"detail", "cpu_s", "last"}, written after the check has returned or failed and the cell is gone. After the `last` one it ends.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import json
import os
import random
import resource
import signal
import socket
import sys
from types import CodeType
from typing import Any

from evals.sandbox import linux, seccomp
from evals.sandbox.ground import Ground, Limits
from evals.sandbox.handle import Cell, Ended

_CHECK_GRACE_S = 0.5
_MEMORY_BYTES = 512 * 1024**2  # a check may spread out a small answer (`list(candidate())` of a huge range)
_LARGE_KIB = 64 * 1024
_JOBS = 1000
"""After so many another takes its place: whatever checks leave behind in memory goes with it."""
_MODULES = {
    *("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "textwrap", "typing"),
}
"""Modules that a check may use because its program imported them: harmless ones of the standard library."""


_BUILTINS = frozenset(dir(builtins))


class Raised(Exception):
    """The program raised an exception that is not a builtin one."""


def judge_all(ground: Ground, wire: int, nursery: socket.socket) -> None:
    """Judge the jobs that come on `wire`, with cells from `nursery`, until the platform hangs up or it is time for another judge."""
    linux.keep_only(wire, nursery.fileno())
    for which, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(which, (most, most))
    signal.signal(signal.SIGALRM, _stop)  # for a check that does not terminate
    seccomp.install(ground.judge_filter)
    recursion = sys.getrecursionlimit()
    for number in range(1, _JOBS + 1):
        line = _line(wire)
        if not line:
            return
        verdict = _verdict(json.loads(line), nursery)
        sys.setrecursionlimit(recursion)
        last = number == _JOBS or verdict["outcome"] in ("timed_out", "sandbox_fault") or _is_large()
        os.write(wire, json.dumps({**verdict, "last": last}).encode() + b"\n")
        if last:
            return


def _is_large() -> bool:
    """Return whether a check has made this process grow: what it has left could bring the next one to the limit."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _LARGE_KIB


def _verdict(job: dict[str, Any], nursery: socket.socket) -> dict[str, Any]:
    """Judge one job."""
    limits = Limits(*job["limits"])
    try:
        cell = Cell(nursery, limits)
    except Ended as end:
        return {"nonce": job["nonce"], "outcome": end.outcome, "detail": end.detail, "cpu_s": 0.0}
    try:
        signal.setitimer(signal.ITIMER_REAL, limits.wall_s + _CHECK_GRACE_S)
        outcome, detail = _outcome(cell, job)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Ended as end:  # the alarm, at the last moment
        outcome, detail = end.outcome, end.detail
    cell.end()
    return {"nonce": job["nonce"], "outcome": outcome, "detail": detail[:500], "cpu_s": cell.cpu_s}


def _outcome(cell: Cell, job: dict[str, Any]) -> tuple[str, str]:
    try:
        return _judge(cell, job)
    except Ended as end:
        return end.outcome, end.detail


def _line(wire: int) -> bytes:
    line = b""
    while piece := os.read(wire, 1 << 16):
        line += piece
        if line.endswith(b"\n"):
            return line
    return b""


def _stop(_signal: int, _frame: object) -> None:
    raise Ended("timed_out", "the check did not end in time")


def _judge(cell: Cell, job: dict[str, Any]) -> tuple[str, str]:
    cell.send(job["code"])
    try:
        code, free = _compiled(job["check"])  # while the cell loads the program
    except SyntaxError as error:
        return "sandbox_fault", f"the suite's check is not valid Python: {error}"
    match cell.receive():
        case ("fault", why):
            return "sandbox_fault", f"the cell could not be made: {why}"
        case ("raised", str(kind), str(text)):
            return "failed", f"{kind}: {text}"
        case ("loaded", dict(names)):
            pass
        case _:
            return "failed", "the program answers out of turn"
    if names.get(job["entry_point"]) != "function":
        return "failed", f"NameError: the code defines no function {job['entry_point']}"
    return _run_check(cell, job, code, _namespace(cell, job, free, names))


@functools.lru_cache(256)
def _compiled(check: str) -> tuple[CodeType, frozenset[str]]:
    """Return a check's code and the names that it does not explain. The same text gives the same."""
    code = compile(check, "check.py", "exec")
    return code, frozenset(_mentioned(code)) - _BUILTINS


def _run_check(cell: Cell, job: dict[str, Any], code: CodeType, space: dict[str, Any]) -> tuple[str, str]:
    """Run the suite's check on a stand-in. The check is ours; what it raises is the program's failure."""
    random.seed(0)  # a check that draws its arguments draws the same for every program
    try:
        exec(code, space)  # noqa: S102 - the suite's own check
        space["check"](_stand_in(cell, job["entry_point"]))
    except Exception as error:  # noqa: BLE001 - a check fails by whatever it or its candidate raises
        return "failed", _first_line(error, job["check"])
    if cell.over is not None:
        raise cell.over
    return "passed", ""


def _namespace(cell: Cell, job: dict[str, Any], free: frozenset[str], names: dict[Any, Any]) -> dict[str, Any]:
    """Return what the check's free names stand for.

    What the suite itself has given comes first (a helper that a prompt defines: the program may have replaced it with one that suits
    it), then functions of the program as stand-ins, and harmless modules that it imported.
    """
    space: dict[str, Any] = {"__name__": "check"}
    given = _given(job["given"]) if any(name in job["given"] for name in free) else {}
    for name in free:
        kind = str(names.get(name, ""))
        if name in given and name != job["entry_point"]:
            space[name] = given[name]
        elif kind == "function":
            space[name] = _stand_in(cell, name)
        elif kind.startswith("module ") and kind.split()[1] in _MODULES:
            space[name] = importlib.import_module(kind.split()[1])
    return space


def _given(text: str) -> dict[str, Any]:
    """Return the names that the suite's own text defines; none where the text is not a whole program (a prompt that breaks off)."""
    space: dict[str, Any] = {}
    try:
        exec(compile(text, "given.py", "exec"), space)  # noqa: S102 - the suite's own
    except Exception:  # noqa: BLE001 - whatever it lacks may stand in the part that the program brings
        return {}
    return space


def _mentioned(code: CodeType) -> set[str]:
    inner = [_mentioned(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _stand_in(cell: Cell, name: str) -> Any:
    def candidate(*arguments: Any, **keywords: Any) -> Any:
        match cell.ask((name, arguments, keywords)):
            case ("value", value):
                return value
            case ("raised", str(kind), str(text)):
                raise _exception(kind, text)
            case _:
                raise Ended("failed", "the program answers out of turn")

    return candidate


def _exception(name: str, text: str) -> Exception:
    """Return the builtin exception of this name, as a check may expect it; for any other, one that names it."""
    kind: Any = getattr(builtins, name, None)
    plain = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError | ExceptionGroup)
    return kind(text) if plain else Raised(f"{name}: {text}")


def _first_line(error: Exception, check: str) -> str:
    lines = check.splitlines()
    import traceback  # noqa: PLC0415 - not in the zygote, whose memory every cell pays for

    at = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "check.py" and frame.lineno]
    where = lines[at[-1] - 1].strip() if at and at[-1] <= len(lines) else ""
    what = (_text(error) if isinstance(error, Raised) else f"{type(error).__name__}: {_text(error)}").rstrip(": ")
    return f"{where} ({what})"[:500] if where else what[:500]


def _text(error: Exception) -> str:
    try:
        return str(error)
    except (ValueError, RecursionError, MemoryError):  # a number of more digits than Python writes
        return ""
