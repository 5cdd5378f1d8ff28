"""What the processes of a sandbox hand to one another."""

from __future__ import annotations

import struct
from typing import NamedTuple

from evals.sandbox.seccomp import Filter


class Ground(NamedTuple):
    """What the zygote has prepared for all: filters of system calls, Landlock's rules (None where the kernel has none)."""

    cell_filter: Filter
    judge_filter: Filter
    rules: int | None


class Limits(NamedTuple):
    """What one program may take. Seconds, bytes of address space; `grace_s` beyond `wall_s` is for a judge that hangs in its check."""

    cpu_s: float
    wall_s: float
    memory_bytes: int
    grace_s: float


LIMITS = struct.Struct("=ddqd")
"""From a judge to the zygote: a cell, please. END: it is done with."""
END = b"end"
BORN = struct.Struct("=i")
"""From the zygote: the cell's pid, with its socket and its pidfd; or, with neither, the number of the error."""
GONE = struct.Struct("=id")
"""From the zygote: the cell's status and the CPU seconds that it used."""
