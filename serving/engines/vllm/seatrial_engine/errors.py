"""Who is at fault when weights cannot be written or read; mirrors the platform's error tree without importing it."""

import errno
import json
from typing import Final

EXIT_REFUSED: Final = 3
EXIT_ENVIRONMENT: Final = 4

# The machine may be all right a minute later.
_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.EBUSY})


class WeightsRefused(Exception):
    """The weights are at fault. `what` names the file or tensor and what is wrong with it; `hint` says what to do next."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class DiskFull(Exception):
    """The output would not fit; `what` gives the numbers."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def refusal_line(error: WeightsRefused) -> str:
    """Render a refusal as the one JSON line that the platform shows to the submitter."""
    return json.dumps({"error": "refused", "what": error.what, "hint": error.hint})


def environment_line(error: OSError | MemoryError | DiskFull) -> str:
    """Render what the machine did as one JSON line: `transient` where trying again may help, else `fault`."""
    passing = isinstance(error, MemoryError | DiskFull) or error.errno in _PASSING
    what = str(error) or type(error).__name__
    hint = "free disk space or memory, then try again" if passing else "check the folders' permissions and the disk"
    return json.dumps({"error": "transient" if passing else "fault", "what": what, "hint": hint})
