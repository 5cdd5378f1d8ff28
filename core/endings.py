"""How a process ended, in words."""

from __future__ import annotations

from signal import Signals
from typing import Final

_MEANINGS: Final = {
    "SIGABRT": "the program aborted itself",
    "SIGBUS": "a memory access failed: a truncated mapped file, a full /dev/shm or a hardware fault",
    "SIGFPE": "an arithmetic error",
    "SIGILL": "the CPU lacks or misuses an instruction",
    "SIGINT": "interrupted",
    "SIGKILL": "ended from outside, probably because memory ran out",
    "SIGSEGV": "an invalid memory access",
    "SIGTERM": "asked to stop",
    "SIGXFSZ": "a file exceeded the size limit",
}
_SHELL_SIGNAL = 128


def describe(returncode: int) -> str:
    """Return `exit code 3` or `killed by SIGILL (the CPU lacks or misuses an instruction)` for a return code of `subprocess`.

    Negative numbers are signals; so are numbers above 128, as a shell reports them.
    """
    number = -returncode if returncode < 0 else returncode - _SHELL_SIGNAL
    try:
        name = Signals(number).name if number > 0 else ""
    except ValueError:
        name = f"signal {number}" if returncode < 0 else ""
    if not name:
        return f"exit code {returncode}"
    meaning = _MEANINGS.get(name)
    return f"killed by {name} ({meaning})" if meaning else f"killed by {name}"
