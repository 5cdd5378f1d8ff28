"""The messages between a sandbox's processes, and the confinement that the zygote prepares for its forks."""

from __future__ import annotations

import struct
from typing import NamedTuple

from evals.sandbox.seccomp import Filter


class Confinement(NamedTuple):
    """Prepared once by the zygote: the filters of system calls, and Landlock's rules (None where the kernel has no Landlock)."""

    cell_filter: Filter
    judge_filter: Filter
    rules: int | None


class Limits(NamedTuple):
    """The limits of one program: seconds, and bytes of address space. A judge that hangs in its check ends `grace_s` after `wall_s`."""

    cpu_s: float
    wall_s: float
    memory_bytes: int
    grace_s: float


LIMITS = struct.Struct("=ddqd")
"""From a judge to the zygote: start a cell with these limits."""
KILL = b"kill"
"""From a judge to the zygote: end the cell. The judge's time limit stays, because its check may go on."""
END = b"end"
"""From a judge to the zygote: end the cell; its check is over."""
STARTED = struct.Struct("=i")
"""From the zygote: the cell's pid, with its socket and its pidfd; or, without either, the error number."""
EXITED = struct.Struct("=id")
"""From the zygote: the cell's wait status and the CPU seconds that it used."""
READY = b"ready"
"""A cell's first line, before it reads the program: it is set up. Any other first line states why it is not."""
