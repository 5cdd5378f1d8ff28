"""How a process ended: its exit code or the signal that ended it, and what that means."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from core.engines import EngineCause

_SHELL_SIGNALS: Final = 128
"""A shell, and a container's exit code, add this to the number of a signal."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended. At most one of the two is set; neither: its status is not known."""

    code: int | None = None
    signal: str = ""
    """The signal's name (`SIGILL`)."""

    @classmethod
    def of_returncode(cls, code: int | None) -> Self:
        """Read what `Popen.returncode` has: negative for a signal, None where it is not known."""
        if code is None or code >= 0:
            return cls(code=code)
        return cls(signal=_name(-code))

    @classmethod
    def of_container(cls, code: int | None) -> Self:
        """Read a container's exit code: above 128 for a signal, None where it is not known."""
        return cls.of_returncode(code if code is None or code <= _SHELL_SIGNALS or code > _SHELL_SIGNALS + signal.NSIG else 128 - code)

    @property
    def known(self) -> bool:
        """Whether its status is known."""
        return self.code is not None or bool(self.signal)

    @property
    def crashed(self) -> bool:
        """Whether the process itself went wrong in a way that Python cannot report."""
        return self.signal in CRASHES


@dataclass(frozen=True, slots=True)
class Crash:
    """What a signal by which the kernel ends a faulty process means."""

    cause: EngineCause
    text: str


CRASHES: Final[Mapping[str, Crash]] = {
    "SIGILL": Crash(
        EngineCause.ILLEGAL_INSTRUCTION,
        "illegal instruction: a kernel uses an instruction that this CPU lacks, or uses it wrongly",
    ),
    "SIGSEGV": Crash(EngineCause.SEGMENTATION_FAULT, "segmentation fault: native code accessed memory that is not mapped"),
    "SIGBUS": Crash(EngineCause.BUS_ERROR, "bus error: most often /dev/shm is full, or a mapped file was truncated"),
    "SIGABRT": Crash(EngineCause.ABORTED, "aborted: native code found an error that it does not handle"),
    "SIGFPE": Crash(EngineCause.ABORTED, "arithmetic error in native code"),
    "SIGTRAP": Crash(EngineCause.ABORTED, "trap in native code"),
    "SIGSYS": Crash(EngineCause.ABORTED, "a system call was denied (seccomp)"),
}


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
