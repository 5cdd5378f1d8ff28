"""The inside of a cell: a process split off the zygote, which knows nothing of any job. It ends with the program."""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import ModuleType
from typing import Any, NoReturn

from evals.sandbox import landlock, linux, seccomp
from evals.sandbox.ground import Ground, Limits
from evals.sandbox.wire import NotData, decode, encode

_MAX_NAMES = 500
_SET_UP_FAILED = 200  # an exit status: the cell could not be made
_LITTLE, _MUCH = 1 << 12, 1 << 16
_REHEARSALS = 20
_PIECE = '''
from typing import Dict, List, Optional, Tuple
import math


def f(numbers: List[int], text: str) -> Tuple[List[int], Dict[str, int]]:
    """Sort numbers, count words.
    >>> f([2, 1], "a a")
    ([1, 2], {"a": 2})
    """
    found = {}
    for word in text.split(" "):
        found[word] = found.get(word, 0) + 1
    most = max((math.floor(number) for number in numbers), default=None)
    return sorted(number for number in numbers if number != most and number % 2 >= 0), {k: len(k + "s") for k in found}
'''
"""A program as they are."""


def live(ground: Ground, limits: Limits, wire: int) -> NoReturn:
    """Be the cell. `wire` brings the code and the calls, and takes the answers. Never returns."""
    try:
        linux.die_with_parent()
        _enter(ground, limits, wire)
    except OSError as error:
        os.write(wire, encode(("fault", f"{error.strerror} ({error.filename or 'set-up'})")))
        os._exit(_SET_UP_FAILED)
    try:
        _serve(wire)
    finally:  # whatever else there is: nothing may return into the zygote's loop
        os._exit(0)


def _enter(ground: Ground, limits: Limits, wire: int) -> None:
    """Give up, for good, everything that a program could use against anyone. The last call leaves nothing to give up."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if ground.rules is not None:
        landlock.restrict(ground.rules)
    linux.keep_only(wire)
    linux.limit(limits.cpu_s, limits.memory_bytes)
    seccomp.install(ground.cell_filter)


def rehearse() -> None:
    """Do in this process what a cell does, again and again, then forget it.

    Python writes to what it uses for the first time (caches, code that it makes fast, memory that it hands out). A page that the zygote
    has written to before is not copied for every cell.
    """
    for _time in range(_REHEARSALS):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a message at a time
        with ours, theirs:
            ours.send(encode(_PIECE))
            for arguments in (([3, 1, 2], "a b"), ([], "")):
                ours.send(encode(("f", arguments, {})))
            ours.shutdown(socket.SHUT_WR)
            _serve(theirs.fileno())
    del sys.modules["program"]


def _serve(wire: int) -> None:
    """Load the code, tell its names, then answer call by call until the judge hangs up."""

    def say(answer: Any) -> None:
        line = encode(answer)
        while line:
            line = line[os.write(wire, line) :]

    module = ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(decode(_line(wire)), "program.py", "exec"), module.__dict__)  # noqa: S102 - what a cell is for
        say(("loaded", _names(module)))
    except BaseException as error:  # noqa: BLE001 - generated code may raise anything; the judge is told
        say(("raised", type(error).__name__, _text(error)))
        return
    while line := _line(wire):
        name, arguments, keywords = decode(line)
        try:
            say(("value", vars(module)[name](*arguments, **keywords)))
        except NotData as error:
            say(("raised", "TypeError", f"returned {error}"))
        except BaseException as error:  # noqa: BLE001 - as above
            say(("raised", type(error).__name__, _text(error)))


def _line(wire: int) -> bytes:
    """Return the next line, empty when there is none. The judge sends the next one only after it has its answer."""
    line = os.read(wire, _LITTLE)
    while line and line[-1] != 10:  # noqa: PLR2004 - the end of a line
        piece = os.read(wire, _MUCH)
        if not piece:
            return b""
        line += piece
    return line


def _names(module: ModuleType) -> dict[str, str]:
    """Return the program's functions and modules by name: what a check may speak of besides its candidate."""
    found: dict[str, str] = {}
    for name, value in list(vars(module).items())[:_MAX_NAMES]:
        if isinstance(value, ModuleType):
            found[name] = f"module {value.__name__}"
        elif callable(value):
            found[name] = "function"
    return found


def _text(error: BaseException) -> str:
    try:
        return str(error)[:300]
    except BaseException:  # noqa: BLE001 - its own __str__ may raise
        return ""
