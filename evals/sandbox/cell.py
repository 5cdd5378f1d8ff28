"""Runs inside a cell: a process that the zygote forks for one program. It has no information about any job."""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import ModuleType
from typing import Any, NoReturn

from evals.sandbox import landlock, linux, seccomp
from evals.sandbox.codec import NotData, decode, encode
from evals.sandbox.messages import Confinement, Limits

_MAX_NAMES = 500
_SET_UP_FAILED = 200  # an exit status: setting the cell up failed
_LITTLE, _MUCH = 1 << 12, 1 << 16
_REHEARSALS = 20
_SAMPLE = '''
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
"""A typical program."""


def run_cell(confinement: Confinement, limits: Limits, channel: int) -> NoReturn:
    """Run as a cell. The code and the calls arrive on the descriptor `channel`, and the answers leave on it. Never returns."""
    try:
        linux.die_with_parent()
        _enter(confinement, limits, channel)
    except OSError as error:
        os.write(channel, encode(("fault", f"{error.strerror} ({error.filename or 'set-up'})")))
        os._exit(_SET_UP_FAILED)
    try:
        _serve(channel)
    finally:  # nothing may return into the zygote's loop
        os._exit(0)


def _enter(confinement: Confinement, limits: Limits, channel: int) -> None:
    """Permanently drop every right that a program could misuse. The last call installs the filter of system calls."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if confinement.rules is not None:
        landlock.restrict(confinement.rules)
    linux.keep_only(channel)
    linux.limit(limits.cpu_s, limits.memory_bytes)
    seccomp.install(confinement.cell_filter)


def rehearse() -> None:
    """Run in this process what a cell runs, several times.

    Python writes to objects on first use (caches, specialised code, allocator pools). A page that the zygote has written to before the
    fork is not copied for every cell.
    """
    for _time in range(_REHEARSALS):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a message at a time
        with ours, theirs:
            ours.send(encode(_SAMPLE))
            for arguments in (([3, 1, 2], "a b"), ([], "")):
                ours.send(encode(("f", arguments, {})))
            ours.shutdown(socket.SHUT_WR)
            _serve(theirs.fileno())
    del sys.modules["program"]


def _serve(channel: int) -> None:
    """Load the code, send its names, then answer one call after the other until the judge closes the connection."""

    def send(answer: Any) -> None:
        line = encode(answer)
        while line:
            line = line[os.write(channel, line) :]

    module = ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(decode(_line(channel)), "program.py", "exec"), module.__dict__)  # noqa: S102 - what a cell is for
        send(("loaded", _names(module)))
    except BaseException as error:  # noqa: BLE001 - generated code may raise anything; the judge receives it
        send(("raised", type(error).__name__, _text(error)))
        return
    while line := _line(channel):
        name, arguments, keywords = decode(line)
        try:
            send(("value", vars(module)[name](*arguments, **keywords)))
        except NotData as error:
            send(("raised", "TypeError", f"returned {error}"))
        except BaseException as error:  # noqa: BLE001 - as above
            send(("raised", type(error).__name__, _text(error)))


def _line(channel: int) -> bytes:
    """Return the next line, or b"" at the end. The judge sends a line only after it has received the answer to the previous one."""
    line = os.read(channel, _LITTLE)
    while line and line[-1] != 10:  # noqa: PLR2004 - the end of a line
        piece = os.read(channel, _MUCH)
        if not piece:
            return b""
        line += piece
    return line


def _names(module: ModuleType) -> dict[str, str]:
    """Return the program's functions and modules by name: a check may use them besides its candidate."""
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
