"""Judges programs, one after the other: the suite's checks run here, each program in its own cell. Never executes generated code.

Input on its socket, one line per job: {"nonce", "code", "check", "given", "entry_point", "limits"}. Output, one line per job:
{"nonce", "outcome", "detail", "cpu_s", "last"}, written after the check has returned or failed and the cell has ended. The judge ends
after a line with `last`.
"""

from __future__ import annotations
import __future__

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
import time
from collections.abc import Iterable
from contextlib import suppress
from types import CodeType
from typing import Any, cast

from evals.sandbox import linux, seccomp
from evals.sandbox.cell_client import CellClient, Ended
from evals.sandbox.messages import Confinement, Limits
from evals.sandbox.raised import MODULES

_CHECK_GRACE_S = 0.5
_MEMORY_BYTES = 512 * 1024**2  # a check may expand a small answer (`list(candidate())` of a huge range)
_LARGE_KIB = 64 * 1024
_MOST_CUTS = 100  # of a suite's text, to find its longest beginning that is valid Python
_TOO_LATE = "the check did not end in time"
_CAUSED_BY_DATA = (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
"""The exceptions that hostile data can cause in the judge's own code. They count against the program."""
_JOBS = 1000
"""A judge is replaced after this number of jobs, which frees the memory that checks leave behind."""
_BUILTINS = frozenset(dir(builtins))


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
        signal.setitimer(signal.ITIMER_REAL, limits.wall_s + limits.grace_s)
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
    except _CAUSED_BY_DATA as error:  # outside of the check
        return "failed", f"the judge cannot read the program's data: {type(error).__name__}"


def _line(channel: int) -> bytes:
    line = b""
    while piece := os.read(channel, 1 << 16):
        line += piece
        if line.endswith(b"\n"):
            return line
    return b""


def _stop(_signal: int, _frame: object) -> None:
    raise Ended("timed_out", _TOO_LATE)


def _judge(cell: CellClient, job: dict[str, Any]) -> tuple[str, str]:
    cell.load(job["code"])
    try:
        code, free = _compiled(job["check"])  # while the cell loads the program
    except SyntaxError as error:
        return "sandbox_fault", f"the suite's check is not valid Python: {error}"
    if "check" not in code.co_names:
        return "sandbox_fault", "the suite's test must define check(candidate)"
    cell.await_ready()
    signal.setitimer(signal.ITIMER_REAL, cell.wall_s + _CHECK_GRACE_S)
    names = cell.names()
    if names.get(job["entry_point"]) != "function":
        return "failed", f"NameError: the code defines no function {job['entry_point']}"
    return _run_check(cell, job, code, _namespace(cell, job, free, names))


@functools.lru_cache(256)
def _compiled(check: str) -> tuple[CodeType, frozenset[str]]:
    """Return a check's code and its free names. Cached by text."""
    code = compile(check, "check.py", "exec", dont_inherit=True)
    return code, frozenset(_mentioned(code)) - _BUILTINS - {"check"}


def _run_check(cell: CellClient, job: dict[str, Any], code: CodeType, space: dict[str, Any]) -> tuple[str, str]:
    """Run the suite's check on a proxy of the candidate. An exception of the check is a failure of the program."""
    random.seed(0)  # random arguments of a check are the same for every program
    try:
        exec(code, space)  # noqa: S102 - the suite's own check
        space["check"](_proxy(cell, job["entry_point"]))
    except Ended:
        raise
    except BaseException as error:  # noqa: BLE001 - a check fails with any exception, its own or its candidate's, SystemExit included
        return "failed", _first_line(error, job["check"])
    if cell.over is not None:
        raise cell.over
    if time.monotonic() > cell.deadline + _CHECK_GRACE_S:  # the check has suppressed the alarm's exception
        raise Ended("timed_out", _TOO_LATE)
    return "passed", ""


def _namespace(cell: CellClient, job: dict[str, Any], free: frozenset[str], names: dict[str, str]) -> dict[str, Any]:
    """Return the values of the check's free names.

    Names that the suite defines come first (a helper in a prompt: the program may have replaced it with one in its favour), then the
    program's functions as proxies, and harmless modules that it imported. The suite's own text sees the program in the same way.
    """
    space: dict[str, Any] = {"__name__": "check"}
    given: dict[str, Any] = {}
    if any(name in job["given"] for name in free):
        text, mentioned = _beginning(job["given"])
        given = _defined(text)
        given[job["entry_point"]] = _proxy(cell, job["entry_point"])
        _add(cell, given, mentioned - given.keys(), names)
    for name in free - {job["entry_point"]}:
        if name in given:
            space[name] = given[name]
    _add(cell, space, free - space.keys(), names)
    return space


def _add(cell: CellClient, space: dict[str, Any], wanted: Iterable[str], names: dict[str, str]) -> None:
    """Add the program's functions, as proxies, and the harmless modules that it imported."""
    for name in wanted:
        kind, _space, module = names.get(name, "").partition(" ")
        if kind == "function":
            space[name] = _proxy(cell, name)
        elif kind == "module" and module in MODULES:
            space[name] = importlib.import_module(module)
        else:
            continue
        cell.untouched = False


@functools.lru_cache(256)
def _beginning(text: str) -> tuple[str, frozenset[str]]:
    """Return the longest beginning of a suite's text that is valid Python, and the names that it mentions. Cached by text.

    A prompt without a docstring ends with the line `def f(x):`; what precedes that line is complete.
    """
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line[:1] not in (" ", "\t", "\n", "\r", "#", ")", "]", "}")]
    for end in [len(lines), *reversed(starts)][:_MOST_CUTS]:
        part = "".join(lines[:end])
        try:
            return part, frozenset(_mentioned(_lenient(part))) - _BUILTINS
        except (SyntaxError, ValueError):
            continue
    return "", frozenset()


def _defined(text: str) -> dict[str, Any]:
    """Return the names that the suite's text defines. A statement that fails here (a package is missing) does not hide the others."""
    space: dict[str, Any] = {"__name__": "given"}
    try:
        exec(_lenient(text), space)  # noqa: S102 - the suite's own
    except Exception:  # noqa: BLE001 - as in any program
        import ast  # noqa: PLC0415 - not in the zygote: every cell copies its page tables

        for statement in ast.parse(text).body:
            with suppress(Exception):
                exec(_lenient(ast.Module([statement], [])), space)  # noqa: S102 - the suite's own
    return space


@functools.lru_cache(256)
def _lenient(source: Any) -> CodeType:
    """Compile the suite's own text. Its annotations are not evaluated: the program may have the imports that they need."""
    return cast("CodeType", compile(source, "given.py", "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True))


def _mentioned(code: CodeType) -> set[str]:
    inner = [_mentioned(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _proxy(cell: CellClient, name: str) -> Any:
    def candidate(*arguments: Any, **keywords: Any) -> Any:
        return cell.call(name, arguments, keywords)

    return candidate


def _first_line(error: BaseException, check: str) -> str:
    lines = check.splitlines()
    import traceback  # noqa: PLC0415 - not in the zygote: every cell copies its page tables

    at = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "check.py" and frame.lineno]
    where = lines[at[-1] - 1].strip() if at and at[-1] <= len(lines) else ""
    what = f"{type(error).__name__}: {_text(error)}".rstrip(": ")
    return f"{where} ({what})"[:500] if where else what[:500]


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except (ValueError, RecursionError, MemoryError):  # a number of more digits than Python writes
        return ""
