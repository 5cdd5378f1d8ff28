"""How the command line ends: every expected failure is a message on stderr and an exit code of docs/cli.md, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from seatrial.errors import SeatrialError

FAILED = 1
INTERRUPTED = 130
_OF_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EAGAIN})


def exit_code_of(command: Callable[[], Any]) -> int:
    """Run a command line that does not exit and return its exit code, with its messages written.

    A reader of the output that is gone (`seatrial models | head -1`) ends it without a message, as it ends other programs.
    """
    _replace_what_cannot_be_encoded()
    try:
        code = _ended(command)
        if code == 0 and sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:
            show_error(_of_system(error))
        return FAILED
    else:
        return code
    finally:
        _discard_what_cannot_be_written()


def show_error(error: SeatrialError) -> None:
    """Write what went wrong and what to do next to stderr. A stderr that cannot be written to does not change the exit code."""
    from seatrial.cli.output import plain  # noqa: PLC0415 - not needed unless there is an error

    with suppress(OSError):
        click.echo(f"error: {plain(error.what)}", err=True)
        if error.hint:
            click.echo(f"next: {plain(error.hint)}", err=True)


def _ended(command: Callable[[], Any]) -> int:
    """Return the exit code of a command that ran to its end, or that ended with an error of click."""
    try:
        result = command()
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        return error.exit_code
    except click.Abort:
        with suppress(OSError):
            click.echo("interrupted", err=True)
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def _of_system(error: OSError) -> SeatrialError:
    why = error.strerror or str(error)
    if error.filename is not None:
        return SeatrialError(f"{error.filename}: {why}", hint="correct the path or its permissions", reason="os_error")
    if error.errno in _OF_WRITING:
        hint = "free disk space, or send the output elsewhere"
        return SeatrialError(f"the output cannot be written: {why}", hint=hint, reason="output")
    return SeatrialError(f"the operating system refused a call: {why}", hint="run `seatrial doctor`", reason="os_error")


def _replace_what_cannot_be_encoded() -> None:
    """Write characters that the output's encoding lacks as backslash escapes, where they would end the command."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _discard_what_cannot_be_written() -> None:
    """Point a standard stream that cannot be flushed to /dev/null: the interpreter flushes it at its exit, and would exit with 120."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
