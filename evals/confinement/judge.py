"""Judges one program: the suite's check runs here, the program in a cell. A script: argv[1] are the cell's settings, stdin the job.

Out: {"nonce", "outcome", "detail"} on stdout, written after the check has returned or failed and the cell is gone.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evals.confinement import linux
from evals.confinement.cell import live
from evals.confinement.wire import MAX_LINE_BYTES, NotData, decode, encode

sys.path.pop(0)

_SIGXCPU_STATUS = 128 + int(signal.SIGXCPU)
_KILLED_STATUS = 128 + int(signal.SIGKILL)
_CHECK_GRACE_S = 0.5
_MEMORY_BYTES = 512 * 1024**2  # the judge's own: a check may spread out a small answer (`list(candidate())` of a huge range)
_MODULES = {
    *("bisect", "cmath", "collections", "copy", "datetime", "decimal", "fractions", "functools", "hashlib", "heapq"),
    *("itertools", "json", "math", "operator", "random", "re", "statistics", "string", "textwrap", "typing"),
}
"""Modules that a check may use because its program imported them: harmless ones of the standard library."""


class Ended(BaseException):
    """The cell gives no more answers: `outcome` and why. No check may catch it as it catches what its candidate raises."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail


class Raised(Exception):
    """The program raised something that is no builtin exception."""


class Cell:
    """The judge's end of a cell. Every answer is due before the program's deadline."""

    def __init__(self, settings: dict[str, Any]) -> None:
        inbox, self._calls = os.pipe()
        self._answers, outbox = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            live(settings, inbox, outbox)
        os.close(inbox)
        os.close(outbox)
        os.set_blocking(self._calls, False)
        self._buffer = b""
        self.over: Ended | None = None
        self.deadline = time.monotonic()

    def ask(self, question: Any) -> Any:
        """Send a question and return the answer. Raises Ended, and from then on always."""
        try:
            return self._ask(question)
        except Ended as end:
            self.over = end
            raise

    def _ask(self, question: Any) -> Any:
        self._send(encode(question))
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise Ended("failed", "the program answers with more than it may")
            self._await(self._answers, select.POLLIN)
            piece = os.read(self._answers, 65536)
            if not piece:
                raise self._gone()
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            return decode(line)
        except NotData as error:
            raise Ended("failed", f"the program's answer is no data: {error}") from error
        except MemoryError:
            raise Ended("failed", "the program's answer is too large") from None

    def end(self) -> None:
        """Kill whatever of the cell is left, orphans too, and return when it is gone."""
        _kill(self._pid)
        while True:
            for orphan in _children():
                _kill(orphan)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def _send(self, data: bytes) -> None:
        while data:
            self._await(self._calls, select.POLLOUT)
            try:
                data = data[os.write(self._calls, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._gone() from None

    def _await(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = self.deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise Ended("timed_out", "it did not end in time")

    def _gone(self) -> Ended:
        """Say why there are no more answers: the program ended, which no check asks for, or broke a limit."""
        status = self._status()
        if status == _SIGXCPU_STATUS:
            return Ended("timed_out", "it used up its CPU time")
        if status == _KILLED_STATUS:
            return Ended("failed", "it was killed, most likely for memory")
        if status > 128:  # noqa: PLR2004 - 128 + signal
            return Ended("failed", f"it died of signal {status - 128}")
        return Ended("failed", f"it ended itself with status {status} before the check was through")

    def _status(self) -> int:
        while time.monotonic() < self.deadline:
            pid, waited = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(waited)
                return code if code >= 0 else 128 - code
            select.select([], [], [], 0.005)
        raise Ended("timed_out", "it did not end in time")


def main() -> None:
    """Judge one program."""
    linux.die_with_parent()
    linux.hide_memory()
    linux.inherit_orphans()
    cell = Cell(json.loads(sys.argv[1]))  # before stdin is read: the cell's memory holds nothing of the job
    linux.bound_memory(_MEMORY_BYTES)
    job = json.load(sys.stdin)
    cell.deadline = time.monotonic() + job["wall_s"]
    signal.signal(signal.SIGALRM, _stop)  # for a check that does not end by itself
    signal.setitimer(signal.ITIMER_REAL, job["wall_s"] + _CHECK_GRACE_S)
    try:
        outcome, detail = _judge(cell, job)
    except Ended as end:
        outcome, detail = end.outcome, end.detail
    signal.setitimer(signal.ITIMER_REAL, 0)
    cell.end()
    json.dump({"nonce": job["nonce"], "outcome": outcome, "detail": detail}, sys.stdout)


def _stop(_signal: int, _frame: object) -> None:
    raise Ended("timed_out", "the check did not end in time")


def _judge(cell: Cell, job: dict[str, Any]) -> tuple[str, str]:
    loaded = cell.ask(job["code"])
    match loaded:
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
    return _run_check(cell, job, names)


def _run_check(cell: Cell, job: dict[str, Any], names: dict[Any, Any]) -> tuple[str, str]:
    """Run the suite's check on a stand-in. The check is ours; what it raises is the program's failure, but for a broken check."""
    try:
        code = compile(job["check"], "check.py", "exec")
    except SyntaxError as error:
        return "sandbox_fault", f"the suite's check is no Python: {error}"
    space = _namespace(cell, code, names)
    try:
        exec(code, space)  # noqa: S102 - the suite's own check
        space["check"](_stand_in(cell, job["entry_point"]))
    except Exception as error:  # noqa: BLE001 - a check fails by whatever it or its candidate raises
        return "failed", _first_line(error, job["check"])
    if cell.over is not None:
        raise cell.over
    return "passed", ""


def _namespace(cell: Cell, code: CodeType, names: dict[Any, Any]) -> dict[str, Any]:
    """Return what the check's free names stand for: functions of the program as stand-ins, harmless modules that it imported."""
    space: dict[str, Any] = {"__name__": "check"}
    for name in _mentioned(code) - set(dir(builtins)):
        kind = str(names.get(name, ""))
        if kind == "function":
            space[name] = _stand_in(cell, name)
        elif kind.startswith("module ") and kind.split()[1] in _MODULES:
            space[name] = importlib.import_module(kind.split()[1])
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
    what = (str(error) if isinstance(error, Raised) else f"{type(error).__name__}: {error}").rstrip(": ")
    return f"{where} ({what})"[:500] if where else what[:500]


def _children() -> list[int]:
    """Return every child of this process, adopted orphans too."""
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        return [int(pid) for pid in path.read_text(encoding="ascii").split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
