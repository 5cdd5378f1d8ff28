"""The CPU of this machine, and the kernels of vLLM's CPU build that engines use on it.

vLLM's wheel has its native code three times, for AVX2, for AVX-512 and for AVX-512 with bfloat16, and takes what the CPU has. There is
no build for a CPU without AVX2. What it chooses for attention is restricted by `seatrial_engine.kernels`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

CPUINFO = Path("/proc/cpuinfo")
_SHOWN = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm", "sve")
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
_ARM = frozenset({"aarch64", "arm64"})


class Look(NamedTuple):
    """One look at the machine: whether it is fine, what was seen, and what to do next where it is not."""

    name: str
    ok: bool
    what: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU as the kernel describes it. `machine` is the architecture's name (`x86_64`)."""

    model: str
    flags: frozenset[str]
    machine: str

    @property
    def build(self) -> str:
        """Which build of vLLM's kernels is loaded; empty where there is none for this CPU."""
        if self.machine in _ARM:
            return "NEON" + (" with bfloat16" if "bf16" in self.flags else "") if "asimd" in self.flags else ""
        if self.flags >= _AVX512:
            return "AVX-512" + (" with bfloat16" if "avx512_bf16" in self.flags else "")
        return "AVX2" if "avx2" in self.flags else ""

    @property
    def attention(self) -> str:
        """The attention kernel by vLLM's name; heads that 32 does not divide get `vec16` on any CPU."""
        return "neon" if self.machine in _ARM else "vec"


def read_cpu(cpuinfo: Path = CPUINFO, machine: str = "") -> Cpu:
    """Read the first processor. Raises OSError where the file is not there."""
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    arm = f"ARM implementer {fields.get('CPU implementer', '?')} part {fields.get('CPU part', '?')}"
    model = fields.get("model name") or (arm if "Features" in fields else "unknown model")
    return Cpu(model, frozenset((fields.get("flags") or fields.get("Features") or "").split()), machine or platform.machine())


def looks(cpuinfo: Path = CPUINFO, machine: str = "") -> Iterator[Look]:
    """Yield the CPU and the kernels that engines use on it. `machine` is this machine's architecture where it is not given."""
    cpu = read_cpu(cpuinfo, machine)
    features = " ".join(flag for flag in _SHOWN if flag in cpu.flags) or "none of the features that vLLM uses"
    yield Look("cpu", bool(cpu.build), f"{cpu.model}: {features}", "" if cpu.build else _needed(cpu))
    if cpu.build:
        yield Look("kernels", ok=True, what=f"{cpu.build}; attention {cpu.attention}{_without_amx(cpu)}")


def _needed(cpu: Cpu) -> str:
    needs = "Advanced SIMD" if cpu.machine in _ARM else "AVX2 or AVX-512"
    return f"vLLM needs a CPU with {needs}; run engines on another machine"


def _without_amx(cpu: Cpu) -> str:
    if "amx_tile" not in cpu.flags:
        return ""
    return "; AMX is switched off, because vLLM's AMX attention computes wrong answers in bfloat16"
