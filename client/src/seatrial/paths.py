"""Paths that a user gave, made absolute: the platform does not know the working directory of this process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from seatrial.errors import InvalidArgument


def looks_like_path(text: str) -> bool:
    """Return whether a text is a path rather than a name or `ORG/MODEL`."""
    return text.startswith((".", "/", "~"))


def absolute(given: str | Path) -> Path:
    """Return a path with `~` and the working directory filled in. Raises InvalidArgument where one of them does not exist."""
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:
        raise _invalid(given, "no home directory is known for this user", "give an absolute path") from error
    try:
        return path.absolute()
    except OSError as error:
        message = f"the working directory cannot be used: {error.strerror}"
        raise _invalid(given, message, "change to an existing folder, or give an absolute path") from error


def resolved(given: str | Path) -> Path:
    """Return a path as `absolute` does, with its symbolic links followed. Raises InvalidArgument also for a loop of links."""
    path = absolute(given)
    try:
        path.stat()
    except ValueError as error:
        raise _invalid(given, str(error), "give a path without null bytes") from error
    except OSError as error:  # one that does not exist here may exist on the platform's machine
        if error.errno == errno.ELOOP:
            raise _invalid(given, "a symbolic link leads back to itself", "give the folder or file that the link is meant for") from error
    return Path(os.path.realpath(path))


def _invalid(given: str | Path, message: str, hint: str) -> InvalidArgument:
    return InvalidArgument(f"{str(given)!r}: {message}", hint=hint, reason="bad_path")
