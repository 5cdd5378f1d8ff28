"""Runs inside a cell: a process that the zygote forks for one program. It has no information about any job."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

from evals.sandbox import landlock, linux, seccomp
from evals.sandbox.codec import NotData, decode, encode
from evals.sandbox.messages import READY, Confinement, Limits
from evals.sandbox.raised import describe

_MAX_NAMES = 10_000
_PLAIN_DEPTH = 2  # in a plain program, its last line and the check are above the candidate
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
    """Run as a cell. The code and the questions arrive on the descriptor `channel`, and the answers leave on it. Never returns.

    The first line is written before the code is read: READY, or the reason why the cell cannot be set up. Nothing that the program
    writes can be taken for it.
    """
    try:
        try:
            linux.die_with_parent()
            _enter(confinement, limits, channel)
        except OSError as error:
            os.write(channel, f"{error.strerror} ({error.filename or 'set-up'})\n".encode())
            os._exit(0)
        os.write(channel, READY + b"\n")
        sys.setrecursionlimit(sys.getrecursionlimit() + _depth() - _PLAIN_DEPTH)
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
            ours.send(encode(("0" * 16, _SAMPLE)))
            for arguments in (([3, 1, 2], "a b"), ([], "")):
                ours.send(encode(("0" * 16, "call", "f", arguments, {})))
            ours.shutdown(socket.SHUT_WR)
            _serve(theirs.fileno())
    del sys.modules["program"]


def _depth() -> int:
    """Return the number of frames above a candidate's in a cell."""
    frame, depth = sys._getframe(), 2  # noqa: SLF001 - 2 are `_serve` and `_answer`
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def _serve(channel: int) -> None:
    """Load the code, send its names, then answer one question after the other until the judge closes the connection.

    Each question carries a token, which its answer repeats: an answer that was written before its question has no such token.
    """
    lent: list[Iterator[Any]] = []

    def lend(values: Iterator[Any]) -> int:
        lent.append(values)
        return len(lent) - 1

    def send(*answer: Any) -> None:
        line = encode(answer, lend)
        while line:
            line = line[os.write(channel, line) :]

    module = ModuleType("program")
    sys.modules["program"] = module
    token, code = decode(_line(channel))
    try:
        compiled = compile(code, "program.py", "exec", dont_inherit=True)
        del code  # a program finds no text in the frames above it
        exec(compiled, module.__dict__)  # noqa: S102 - what a cell is for
        send(token, "loaded", _names(module))
    except BaseException as error:  # noqa: BLE001 - generated code may raise anything; the judge receives it
        send(token, *describe(error))
        return
    while line := _line(channel):
        token, *question = decode(line)
        try:
            send(token, *_answer(module, lent, question))
        except NotData as error:
            send(token, "unreadable", f"the program returns {error}")
        except BaseException as error:  # noqa: BLE001 - as above
            send(token, *describe(error))


def _answer(module: ModuleType, lent: list[Iterator[Any]], question: list[Any]) -> tuple[Any, ...]:
    """Answer ("call", name, arguments, keywords) or ("next", number of a lent iterator, most items)."""
    if question[0] == "call":
        _call, name, arguments, keywords = question
        return "value", vars(module)[name](*arguments, **keywords)
    _next, number, most = question
    items: list[Any] = []
    try:
        while len(items) < most:
            items.append(next(lent[number]))
    except StopIteration:
        return "items", items, ("end",)
    except BaseException as error:  # noqa: BLE001 - the items before it count
        return "items", items, describe(error)
    return "items", items, ()


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
        if type(name) is not str:
            continue
        if isinstance(value, ModuleType):
            found[name] = f"module {value.__name__}"
        elif callable(value):
            found[name] = "function"
    return found
