"""How the demo ends when something fails: the exit code and the message of each kind of error."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from openai import APIConnectionError, APIError, APIStatusError

from core.errors import Conflict, Forbidden, NotFound, Transient
from core.errors import SeatrialError as PlatformError
from seatrial.errors import SeatrialError as ClientError
from seatrial.errors import from_status

EXPECTED = (PlatformError, ClientError, APIError, OSError, subprocess.SubprocessError, ValueError)
"""Errors of the world, of the platform and of its answers. Anything else is a fault of the demo itself and shows its traceback."""

FAILED = 1
UNREACHABLE = 6
INTERRUPTED = 130
_OF_PLATFORM = ((Conflict, 5), (NotFound, 4), (Forbidden, 3), (Transient, UNREACHABLE))


@dataclass(frozen=True, slots=True)
class Ending:
    """The exit code (docs/cli.md), one sentence, and what to do next."""

    code: int
    what: str
    hint: str = ""


def ending(error: BaseException) -> Ending:
    """Return how the demo ends after an error: one of EXPECTED, or KeyboardInterrupt."""
    if isinstance(error, KeyboardInterrupt):
        return Ending(INTERRUPTED, "interrupted; the stack was stopped")
    if isinstance(error, PlatformError):
        return Ending(next((code for kind, code in _OF_PLATFORM if isinstance(error, kind)), FAILED), error.what, error.hint)
    if isinstance(error, ClientError):
        return Ending(error.exit_code, error.what, error.hint)
    if isinstance(error, APIError):
        return _of_gateway(error)
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return Ending(FAILED, f"{error.strerror or error}{where}", "free the path or the disk, or name another folder with --home")
    return Ending(FAILED, f"{type(error).__name__}: {error}")


def _of_gateway(error: APIError) -> Ending:
    if isinstance(error, APIStatusError):
        code = from_status(error.status_code, "", "", "").exit_code
        return Ending(code, f"the gateway answered {error.status_code}: {error.message}", "read gateway.log")
    if isinstance(error, APIConnectionError):
        return Ending(UNREACHABLE, f"the connection to the gateway failed: {error}", "read gateway.log")
    return Ending(FAILED, f"the gateway ended the answer with an error: {error.message}", "read gateway.log")
