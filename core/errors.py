"""The error tree. The class of an error carries the decision of what happens next; its message never does.

    SeatrialError
    ├── Refused      the request or submission is at fault: never retried, shown to the caller
    │   ├── NotFound     the named object does not exist
    │   ├── Conflict     the object exists or has already changed; read it again, then decide
    │   │   └── Stale    the row has changed since it was read (compare-and-set)
    │   └── Forbidden    the caller lacks the permission
    ├── Transient    a temporary external failure: retried with capped, jittered exponential back-off
    └── Fault        the platform or its set-up is at fault: not retried, an operator is notified
        ├── Exhausted    a Transient that outlasted every retry
        └── DiskFull     the disk is full; the submission is refused for now and may be repeated later

SDK errors are translated into one of these at the edge (`raise Transient(...) from error`).
"""

from __future__ import annotations

from typing import ClassVar

from core.reasons import AnyReason, Reason


class SeatrialError(Exception):
    """Base of all our errors. `what` says what happened and to which thing; `hint` says what to do next."""

    code: ClassVar[Reason] = Reason.ERROR

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        """Return one sentence for people: what, which, what next."""
        return f"{self.what}; {self.hint}" if self.hint else self.what

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling (Prefect stores errors): keyword arguments are restored from the state."""
        return (_rebuild, (type(self), self.what, self.hint, self.__dict__))


class Refused(SeatrialError):
    """The request is at fault. Never retried. `reason` is the value for programs (`Reason.NAN_IN_WEIGHTS`)."""

    code = Reason.REFUSED

    def __init__(self, what: str, *, reason: AnyReason = Reason.REFUSED, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.reason = reason


class NotFound(Refused):
    """What was named does not exist."""

    code = Reason.NOT_FOUND


class Conflict(Refused):
    """Somebody was faster, or the thing is not in a state that allows this. Read again, then decide."""

    code = Reason.CONFLICT


class Stale(Conflict):
    """The row that was to be stored has changed since it was read."""


class Forbidden(Refused):
    """The caller is known but may not do this."""

    code = Reason.FORBIDDEN


class Transient(SeatrialError):
    """It may work in a moment. `retry_after_s` is the delay that the other side requested, if any."""

    code = Reason.TRANSIENT

    def __init__(self, what: str, *, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.retry_after_s = retry_after_s


class Fault(SeatrialError):
    """Ours: a bug, a missing part, a broken set-up. Not retried."""

    code = Reason.FAULT


class Exhausted(Fault):
    """A Transient that outlasted every retry: what it waited for needs somebody's attention."""

    code = Reason.RETRIES_EXHAUSTED

    @classmethod
    def after(cls, error: Transient, attempts: int) -> Exhausted:
        """Return the end of a Transient that failed `attempts` times. It keeps the hint, and gives one where there was none."""
        times = f" ({attempts} attempts)" if attempts > 1 else ""
        hint = error.hint or "run `seatrial doctor` to find which service does not answer; submit again once it does"
        return cls(f"{error.what}{times}", hint=hint)


class DiskFull(Fault):
    """The disk of this machine is full. Not retried, because waiting frees no space; the message states the sizes."""

    code = Reason.DISK_FULL


def _rebuild(kind: type[SeatrialError], what: str, hint: str, state: dict[str, object]) -> SeatrialError:
    error = kind(what, hint=hint)
    error.__dict__.update(state)
    return error
