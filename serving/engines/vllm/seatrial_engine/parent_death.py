"""The parent-death signal: the kernel kills every process of an engine when its server ends, however the server ends.

vLLM's engine process notices only a regular end of its server. If the server is killed with SIGKILL, the engine process keeps running
with the model in memory (measured with a forked engine, vLLM 0.32). prctl(2) makes the kernel signal a child when its parent ends (Linux).
Programs that the platform runs end with their parent in the same way (`programs`).
"""

import ctypes
import multiprocessing
import os
import signal
from dataclasses import dataclass
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


@dataclass(slots=True)
class _Forking:
    """The process that is forking: a child of a child inherits the hooks, and has another parent."""

    pid: int = 0


_forking: Final = _Forking()


def end_forked_children_with_this_process() -> None:
    """Set the parent-death signal in every process that Python forks from now on. The server calls this before it forks its engine."""
    os.register_at_fork(before=_remember_parent, after_in_child=lambda: end_with_parent(_forking.pid))


def end_if_spawned_with_parent() -> None:
    """Set the parent-death signal of this process if `multiprocessing` spawned it."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == os.getppid():
        end_with_parent(parent.pid)


def end_with_parent(parent: int) -> None:
    """Set the parent-death signal of this process to SIGKILL. Raises OSError if the kernel refuses.

    `parent` is the pid of the expected parent. If it ended before the call, this process ends at once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)


def _remember_parent() -> None:
    _forking.pid = os.getpid()
