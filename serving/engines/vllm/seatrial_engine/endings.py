"""A line in the log for each process of an engine that ends with an error: its exit code, or the signal that ended it.

vLLM's server notices that its engine process is gone but not how it ended ("EngineCore encountered an issue. See stack trace (above)"),
and after a signal there is no stack trace. The line's form is read by the platform (`serving/engines/causes.py`):

    seatrial: process EngineCore_DP0 (pid 4711) ended by SIGILL
    seatrial: process EngineCore_DP0 (pid 4711) exited with code 1
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess


def report_endings_of_children() -> None:
    """From now on, report how each process ends that `multiprocessing` starts here. Idempotent; inherited by what is forked."""
    start = BaseProcess.start
    if hasattr(start, "__wrapped__"):
        return

    @functools.wraps(start)
    def started(process: BaseProcess) -> None:
        start(process)
        threading.Thread(target=_report, args=(process,), daemon=True, name=f"end of {process.name}").start()

    BaseProcess.start = started  # type: ignore[method-assign]


def line_of(name: str, pid: int, code: int) -> str:
    """Return the line of a process; `code` is negative for the signal that ended it."""
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return f"seatrial: process {name.replace(' ', '-')} (pid {pid}) {how}\n"


def _report(process: BaseProcess) -> None:
    pid = process.pid
    code = None if pid is None else _await_end(pid)
    if code is None:
        code = process.exitcode  # who started it was faster, and knows
    if code:
        with contextlib.suppress(OSError):
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line_of(process.name, pid or 0, code).encode())


def _await_end(pid: int) -> int | None:
    """Wait for a child's end and leave the child to its parent's own wait. None when it was already reaped."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        end = os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return None
    finally:
        os.close(handle)
    if end is None:
        return None
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
