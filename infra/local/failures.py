"""Expected failures of the operating system as errors of ours, and how local commands end with an error."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import IO, Any, ParamSpec, TypeVar

import click

from core.errors import Conflict, DiskFull, Fault, Forbidden, NotFound, SeatrialError, Transient
from infra.local import privacy

P = ParamSpec("P")
R = TypeVar("R")

_OWNER = "run the command as the owner of that path, or give --home another folder"
_HINTS: Mapping[int, str] = {
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.EROFS: "give --home a folder on a writable file system",
    errno.ENOTDIR: "give --home a folder",
    errno.EEXIST: "give --home a folder",
    errno.ENAMETOOLONG: "give --home a shorter path",
    errno.EADDRINUSE: "free the port, or give another one",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise fs.file-max",
    errno.ENOMEM: "free memory",
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
    errno.EIO: "check the disk (dmesg)",
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_EXIT_CODES: tuple[tuple[type[SeatrialError], int], ...] = ((Forbidden, 3), (NotFound, 4), (Conflict, 5), (Transient, 6))
"""As docs/cli.md has them; everything else exits with 1."""


def of_os(error: OSError) -> SeatrialError:
    """Return the error of ours for one of the operating system, with the path and what to do next."""
    number = error.errno or 0
    what = f"{error.filename}: {error.strerror}" if error.filename is not None and error.strerror else str(error)
    if number in _FULL:
        return DiskFull(what, hint="free disk space, or raise the quota or the file size limit")
    return Fault(what, hint=_HINTS.get(number, "run `seatrial doctor`"))


class Failed(click.ClickException):
    """Ends a command with `error:` and `next:` on standard error, as the client's commands do."""

    def __init__(self, error: SeatrialError) -> None:
        super().__init__(str(error))
        self.error = error
        self.exit_code = next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)  # type: ignore[misc]  # click says ClassVar

    def show(self, file: IO[Any] | None = None) -> None:
        """Print both lines."""
        click.echo(f"error: {self.error.what}", err=file is None, file=file)
        if self.error.hint:
            click.echo(f"next: {self.error.hint}", err=file is None, file=file)


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """End a command's expected failures (our errors, the operating system's) with two lines on standard error and an exit code.

    Files that the command creates are readable by its user only.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        before = os.umask(privacy.UMASK)
        try:
            os.stat(os.curdir)  # noqa: PTH116 - a working directory that was removed or is closed to us fails here, not somewhere in a library
            return command(*args, **kwargs)
        except SeatrialError as error:
            raise Failed(error) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader of our output is gone: click ends without a word
            raise Failed(of_os(error)) from error
        finally:
            os.umask(before)

    return run
