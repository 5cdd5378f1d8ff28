"""Judges programs, one after the other: the suite's checks run here, each program in its own cell. Never executes generated code.

Input on its socket, one line per job: {"nonce", "code", "check", "given", "entry_point", "limits"}. Output, one line per job:
{"nonce", "outcome", "detail", "cpu_s", "last"}, written after the check has returned or failed and the cell has ended. The judge ends
after a line with `last`.
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
from evals.sandbox.cell_client import CellClient, Ended
from evals.sandbox.messages import Confinement, Limits

_CHECK_GRACE_S = 0.5
_MEMORY_BYTES = 512 * 1024**2  # a check may expand a small answer (`list(candidate())` of a huge range)
_LARGE_KIB = 64 * 1024
_JOBS = 1000
"""A judge is replaced after this number of jobs, which frees the memory that checks leave behind."""
_MODULES = {
    *("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "textwrap", "typing"),
}
"""Modules that a check may use because its program imported them: harmless ones of the standard library."""


_BUILTINS = frozenset(dir(builtins))


class Raised(Exception):
    """The program raised an exception that is not a builtin one."""


def judge_all(confinement: Confinement, channel: int, zygote: socket.socket) -> None:
    """Judge the jobs from `channel`, with cells from `zygote`, until the platform closes the connection or the judge is to be replaced."""
    linux.keep_only(channel, zygote.fileno())
    for which, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(which, (most, most))
    signal.signal(signal.SIGALRM, _stop)  # for a check that does not terminate
    seccomp.install(confinement.judge_filter)
    recursion = sys.getrecursionlimit()
    for number in range(1, _JOBS + 1):
        line = _line(channel)
        if not line:
            return
        verdict = _verdict(json.loads(line), zygote)
        sys.setrecursionlimit(recursion)
        last = number == _JOBS or verdict["outcome"] in ("timed_out", "sandbox_fault") or _is_large()
        os.write(channel, json.dumps({**verdict, "last": last}).encode() + b"\n")
        if last:
            return


def _is_large() -> bool:
    """Return whether checks have made this process grow so far that the next check may reach the limit."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _LARGE_KIB


def _verdict(job: dict[str, Any], zygote: socket.socket) -> dict[str, Any]:
    """Judge one job."""
    limits = Limits(*job["limits"])
    try:
        cell = CellClient(zygote, limits)
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


def _outcome(cell: CellClient, job: dict[str, Any]) -> tuple[str, str]:
    try:
        return _judge(cell, job)
    except Ended as end:
        return end.outcome, end.detail


def _line(channel: int) -> bytes:
    line = b""
    while piece := os.read(channel, 1 << 16):
        line += piece
        if line.endswith(b"\n"):
            return line
    return b""


def _stop(_signal: int, _frame: object) -> None:
    raise Ended("timed_out", "the check did not end in time")


def _judge(cell: CellClient, job: dict[str, Any]) -> tuple[str, str]:
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
    """Return a check's code and its free names. Cached by text."""
    code = compile(check, "check.py", "exec")
    return code, frozenset(_mentioned(code)) - _BUILTINS


def _run_check(cell: CellClient, job: dict[str, Any], code: CodeType, space: dict[str, Any]) -> tuple[str, str]:
    """Run the suite's check on a proxy of the candidate. An exception of the check is a failure of the program."""
    random.seed(0)  # random arguments of a check are the same for every program
    try:
        exec(code, space)  # noqa: S102 - the suite's own check
        space["check"](_proxy(cell, job["entry_point"]))
    except Exception as error:  # noqa: BLE001 - a check fails with any exception, its own or its candidate's
        return "failed", _first_line(error, job["check"])
    if cell.over is not None:
        raise cell.over
    return "passed", ""


def _namespace(cell: CellClient, job: dict[str, Any], free: frozenset[str], names: dict[Any, Any]) -> dict[str, Any]:
    """Return the values of the check's free names.

    Names that the suite defines come first (a helper in a prompt: the program may have replaced it with one in its favour), then the
    program's functions as proxies, and harmless modules that it imported.
    """
    space: dict[str, Any] = {"__name__": "check"}
    given = _given(job["given"]) if any(name in job["given"] for name in free) else {}
    for name in free:
        kind = str(names.get(name, ""))
        if name in given and name != job["entry_point"]:
            space[name] = given[name]
        elif kind == "function":
            space[name] = _proxy(cell, name)
        elif kind.startswith("module ") and kind.split()[1] in _MODULES:
            space[name] = importlib.import_module(kind.split()[1])
    return space


def _given(text: str) -> dict[str, Any]:
    """Return the names that the suite's text defines, {} when the text is not a complete program (a prompt that ends early)."""
    space: dict[str, Any] = {}
    try:
        exec(compile(text, "given.py", "exec"), space)  # noqa: S102 - the suite's own
    except Exception:  # noqa: BLE001 - the missing part may be in the program
        return {}
    return space


def _mentioned(code: CodeType) -> set[str]:
    inner = [_mentioned(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _proxy(cell: CellClient, name: str) -> Any:
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
    """Return the builtin exception of this name, because a check may expect it; otherwise a Raised with the name."""
    kind: Any = getattr(builtins, name, None)
    plain = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError | ExceptionGroup)
    return kind(text) if plain else Raised(f"{name}: {text}")


def _first_line(error: Exception, check: str) -> str:
    lines = check.splitlines()
    import traceback  # noqa: PLC0415 - not in the zygote: every cell copies its page tables

    at = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "check.py" and frame.lineno]
    where = lines[at[-1] - 1].strip() if at and at[-1] <= len(lines) else ""
    what = (_text(error) if isinstance(error, Raised) else f"{type(error).__name__}: {_text(error)}").rstrip(": ")
    return f"{where} ({what})"[:500] if where else what[:500]


def _text(error: Exception) -> str:
    try:
        return str(error)
    except (ValueError, RecursionError, MemoryError):  # a number of more digits than Python writes
        return ""
