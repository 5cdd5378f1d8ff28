"""What the processes of a sandbox hand to one another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ground:
    """What the zygote has prepared for every sample: filters of system calls, Landlock's rules (None where the kernel has none)."""

    cell_filter: bytes
    judge_filter: bytes
    rules: int | None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may take. Seconds, bytes of address space; `grace_s` beyond `wall_s` is for a judge that hangs in its check."""

    cpu_s: float
    wall_s: float
    memory_bytes: int
    grace_s: float
