"""Judges one program: the suite's check runs here, the program in a cell. This process never executes generated code.

In on its socket, until the platform closes its side: {"nonce", "code", "check", "given", "entry_point"}.
Out: {"nonce", "outcome", "detail", "cpu_s"}, written after the check has returned or failed and the cell is gone.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import random
import resource
import signal
import time
import traceback
from types import CodeType
from typing import Any

from evals.sandbox import seccomp
from evals.sandbox.ground import Ground, Limits
from evals.sandbox.handle import Cell, Ended

_CHECK_GRACE_S = 0.5
_MEMORY_BYTES = 512 * 1024**2  # a check may spread out a small answer (`list(candidate())` of a huge range)
_MODULES = {
    *("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "textwrap", "typing"),
}
"""Modules that a check may use because its program imported them: harmless ones of the standard library."""


class Raised(Exception):
    """The program raised something that is no builtin exception."""


def judge(ground: Ground, limits: Limits, wire: int) -> None:
    """Judge the job that comes on `wire`."""
    _keep_only(wire, *([] if ground.rules is None else [ground.rules]))
    cell = Cell(ground, limits)  # before the job is read: the cell's memory holds nothing of it
    for which, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(which, (most, most))
    seccomp.install(ground.judge_filter)
    job = json.loads(_whole(wire))
    cell.deadline = time.monotonic() + limits.wall_s
    signal.signal(signal.SIGALRM, _stop)  # for a check that does not end by itself
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s + _CHECK_GRACE_S)
    try:
        outcome, detail = _judge(cell, job)
    except Ended as end:
        outcome, detail = end.outcome, end.detail
    signal.setitimer(signal.ITIMER_REAL, 0)
    cell.end()
    verdict = {"nonce": job["nonce"], "outcome": outcome, "detail": detail[:500], "cpu_s": cell.cpu_s}
    os.write(wire, json.dumps(verdict).encode() + b"\n")


def _keep_only(*kept: int) -> None:
    begin = 3
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, 1 << 20)


def _whole(wire: int) -> bytes:
    pieces = []
    while piece := os.read(wire, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def _stop(_signal: int, _frame: object) -> None:
    raise Ended("timed_out", "the check did not end in time")


def _judge(cell: Cell, job: dict[str, Any]) -> tuple[str, str]:
    cell.send(job["code"])
    try:
        code = compile(job["check"], "check.py", "exec")  # while the cell loads the program
    except SyntaxError as error:
        return "sandbox_fault", f"the suite's check is no Python: {error}"
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
    return _run_check(cell, job, code, names)


def _run_check(cell: Cell, job: dict[str, Any], code: CodeType, names: dict[Any, Any]) -> tuple[str, str]:
    """Run the suite's check on a stand-in. The check is ours; what it raises is the program's failure."""
    space = _namespace(cell, job, code, names)
    random.seed(0)  # a check that draws its arguments draws the same for every program
    try:
        exec(code, space)  # noqa: S102 - the suite's own check
        space["check"](_stand_in(cell, job["entry_point"]))
    except Exception as error:  # noqa: BLE001 - a check fails by whatever it or its candidate raises
        return "failed", _first_line(error, job["check"])
    if cell.over is not None:
        raise cell.over
    return "passed", ""


def _namespace(cell: Cell, job: dict[str, Any], code: CodeType, names: dict[Any, Any]) -> dict[str, Any]:
    """Return what the check's free names stand for.

    What the suite itself has given comes first (a helper that a prompt defines: the program may have replaced it with one that suits
    it), then functions of the program as stand-ins, and harmless modules that it imported.
    """
    space: dict[str, Any] = {"__name__": "check"}
    given = _given(job["given"])
    for name in _mentioned(code) - set(dir(builtins)):
        kind = str(names.get(name, ""))
        if name in given and name != job["entry_point"]:
            space[name] = given[name]
        elif kind == "function":
            space[name] = _stand_in(cell, name)
        elif kind.startswith("module ") and kind.split()[1] in _MODULES:
            space[name] = importlib.import_module(kind.split()[1])
    return space


def _given(text: str) -> dict[str, Any]:
    """Return the names that the suite's own text defines; none where it is no whole program (a prompt that breaks off)."""
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
    at = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "check.py" and frame.lineno]
    where = lines[at[-1] - 1].strip() if at and at[-1] <= len(lines) else ""
    what = (_text(error) if isinstance(error, Raised) else f"{type(error).__name__}: {_text(error)}").rstrip(": ")
    return f"{where} ({what})"[:500] if where else what[:500]


def _text(error: Exception) -> str:
    try:
        return str(error)
    except (ValueError, RecursionError, MemoryError):  # a number of more digits than Python writes
        return ""
