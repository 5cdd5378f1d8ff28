"""What the machines that run engines can do, as far as it decides which models they serve."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineHost:
    """The hardware of engines. `avx512` matters without a GPU: vLLM's CPU kernels for 4-bit weights need it."""

    gpu: bool = False
    avx512: bool = True


def has_avx512(cpuinfo: str) -> bool:
    """Whether `/proc/cpuinfo` lists the foundation of AVX-512."""
    flags = (line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags"))
    return "avx512f" in next(flags, [])
