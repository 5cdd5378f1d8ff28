"""The inside of a cell: a process split off the judge before the judge knows anything of its job. It ends with the program."""

from __future__ import annotations

import os
import signal
import sys
from types import ModuleType
from typing import Any, NoReturn

from evals.sandbox import landlock, linux, seccomp
from evals.sandbox.ground import Ground, Limits
from evals.sandbox.wire import NotData, decode, encode

_MAX_NAMES = 500
_SET_UP_FAILED = 200  # an exit status: the cell could not be made


def live(ground: Ground, limits: Limits, inbox: int, outbox: int) -> NoReturn:
    """Be the cell. `inbox` brings the code and the calls, `outbox` takes the answers. Never returns."""
    try:
        linux.die_with_parent()
        _enter(ground, limits, inbox, outbox)
    except OSError as error:
        os.write(outbox, encode(("fault", f"{error.strerror} ({error.filename or 'set-up'})")))
        os._exit(_SET_UP_FAILED)
    with os.fdopen(inbox, "rb") as calls, os.fdopen(outbox, "wb") as answers:
        _serve(calls, answers)
    os._exit(0)


def _enter(ground: Ground, limits: Limits, inbox: int, outbox: int) -> None:
    """Give up, for good, everything that a program could use against anyone. The last call leaves nothing to give up."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if ground.rules is not None:
        landlock.restrict(ground.rules)
    _keep_only(inbox, outbox)
    linux.limit(limits.cpu_s, limits.memory_bytes)
    seccomp.install(ground.cell_filter)


def _keep_only(*kept: int) -> None:
    """Close every inherited file but these and the standard streams, which lead nowhere."""
    begin = 3
    for descriptor in sorted(kept):
        os.closerange(begin, descriptor)
        begin = descriptor + 1
    os.closerange(begin, 1 << 20)


def _serve(calls: Any, answers: Any) -> None:
    """Load the code, tell its names, then answer call by call until the judge hangs up."""

    def say(answer: Any) -> None:
        answers.write(encode(answer))
        answers.flush()

    module = ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(decode(calls.readline()), "program.py", "exec"), module.__dict__)  # noqa: S102 - what a cell is for
        say(("loaded", _names(module)))
    except BaseException as error:  # noqa: BLE001 - generated code may raise anything; the judge is told
        say(("raised", type(error).__name__, _text(error)))
        return
    for line in calls:
        name, arguments, keywords = decode(line)
        try:
            say(("value", vars(module)[name](*arguments, **keywords)))
        except NotData as error:
            say(("raised", "TypeError", f"returned {error}"))
        except BaseException as error:  # noqa: BLE001 - as above
            say(("raised", type(error).__name__, _text(error)))


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
