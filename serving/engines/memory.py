"""The memory that a process of this machine can have, in words, for an engine that was killed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core.settings import GIB

_V2 = "0::"
_NO_LIMIT = 2**60
"""A control group without a limit reports 2**63 less a page, or `max`."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of this machine's memory, what of them is available now, and the control group's limit (0: none)."""

    total: int
    available: int
    limit: int = 0

    def __str__(self) -> str:
        """Name the bound that a process meets first."""
        if self.limit and self.limit < self.total:
            return f"the control group's limit is {self.limit / GIB:.1f} GiB"
        return f"this machine has {self.total / GIB:.1f} GiB, {self.available / GIB:.1f} GiB of it available now"


def memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Read this machine's memory and the limit of this process's control group. Raises OSError where /proc is not there."""
    sizes = {}
    for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        sizes[name] = int(value.split()[0]) * 1024
    limits = [limit for limit in _limits(proc, cgroups) if limit < _NO_LIMIT]
    return Memory(sizes["MemTotal"], sizes["MemAvailable"], min(limits, default=0))


def bounds(budget_bytes: int) -> str:
    """Name everything that bounds an engine's memory: the machine or the control group, and its own budget."""
    return f"{memory()}; the engine's budget is {budget_bytes / GIB:.1f} GiB (SEATRIAL_MODELS_ENGINE_MEMORY_BYTES)"


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the limits of the process's group and of those above it."""
    try:
        lines = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if line.startswith(_V2):
            yield from _read_all(cgroups, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _read_all(cgroups / "memory", path, "memory.limit_in_bytes")


def _read_all(root: Path, path: str, file: str) -> Iterator[int]:
    group = PurePosixPath(path.lstrip("/"))
    for folder in (group, *group.parents):
        try:
            text = (root / folder / file).read_text(encoding="ascii").strip()
        except OSError:
            continue  # inside a container the path is that of the machine outside
        if text.isdigit():
            yield int(text)
