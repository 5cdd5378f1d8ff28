"""No process of an engine outlives its server, however that ends.

vLLM's engine process only notices a server that says goodbye: killed with SIGKILL, the server leaves it running with the model in
memory (measured with a forked engine, vLLM 0.32). The kernel can be asked to end a child with its parent (Linux, prctl(2)).
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
    """Who forks at this moment: a child of a child inherits the hooks, and has another parent."""

    pid: int = 0


_forking: Final = _Forking()


def end_forked_children_with_this_process() -> None:
    """From now on, what Python forks here is killed when this process ends. For the server, before it forks its engine."""
    os.register_at_fork(before=_remember_parent, after_in_child=lambda: end_with_parent(_forking.pid))


def end_if_spawned_with_parent() -> None:
    """Tie this process to the one that spawned it, where `multiprocessing` did; any other process is left as it is."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == os.getppid():
        end_with_parent(parent.pid)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. Raises OSError when the kernel refuses.

    `parent` is who the caller takes for its parent: where that one has ended before the kernel was asked, end now.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)


def _remember_parent() -> None:
    _forking.pid = os.getpid()
