"""What can go wrong, as a caller must tell it apart.

SeatrialError
├── RefusedError    the request is at fault; `reason` is a stable word for programs
│   └── InvalidArgument  a value that was given cannot be used; no request was sent
├── NotAuthorised   no key, a dead key, or one whose role does not allow this
├── NotFound        what was named does not exist, or is not yours to see
├── Conflict        not possible in the state that it is in
└── Unavailable     the platform does not answer, or asks to come back later
"""

from __future__ import annotations


class SeatrialError(Exception):
    """Base of all. `what` says what happened and to which thing, `hint` what to do next, `reason` is a stable word."""

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "", reason: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.reason = reason

    def __str__(self) -> str:
        """Return one sentence for people."""
        return f"{self.what}; {self.hint}" if self.hint else self.what


class RefusedError(SeatrialError):
    """The request is at fault."""


class InvalidArgument(RefusedError):
    """A value that was given cannot be used; no request was sent. The command line exits as for wrong usage."""

    exit_code = 2


class NotAuthorised(SeatrialError):
    """No key, a dead key, or one whose role does not allow this."""

    exit_code = 3


class NotFound(SeatrialError):
    """What was named does not exist, or is not yours to see."""

    exit_code = 4


class Conflict(SeatrialError):
    """Not possible in the state that it is in."""

    exit_code = 5


NOT_OURS = "bad_document"
"""The reason of an Unavailable that is not an outage: the answer is not from a platform of this release."""


class Unavailable(SeatrialError):
    """The platform does not answer, or asks to come back later."""

    exit_code = 6


def from_status(status: int, what: str, hint: str, reason: str) -> SeatrialError:
    """Return the error that an HTTP status stands for."""
    kind: type[SeatrialError] = {401: NotAuthorised, 403: NotAuthorised, 404: NotFound, 409: Conflict}.get(status, RefusedError)
    if status >= 500 or status == 429:  # noqa: PLR2004 - HTTP's own numbers
        kind = Unavailable
    return kind(what, hint=hint, reason=reason)
