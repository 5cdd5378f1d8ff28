"""The capabilities of the machines that run engines: they decide which models are served, and in which number type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_BFLOAT16: Final = {"avx512_bf16", "amx_bf16", "bf16"}
"""The features of x86 and of ARM with which a CPU multiplies in bfloat16."""


@dataclass(frozen=True, slots=True)
class EngineHost:
    """The hardware of engines. `avx512` and `bfloat16` matter without a GPU.

    vLLM's CPU kernels for 4-bit weights need AVX-512. A CPU without bfloat16 instructions converts each number before it multiplies:
    in 16 conversations on one thread of an AMD EPYC with AVX2, SmolLM2 generates 25 tokens/s in bfloat16 and 80 in float32.
    """

    gpu: bool = False
    avx512: bool = True
    bfloat16: bool = True

    def computes(self, dtype: str) -> bool:
        """Whether the hardware multiplies numbers of this type without a conversion."""
        return self.gpu or self.bfloat16 or dtype != "bfloat16"


def cpu_host(cpuinfo: str) -> EngineHost:
    """Return what engines on this CPU can do, from the text of `/proc/cpuinfo`."""
    features = _features(cpuinfo)
    return EngineHost(avx512="avx512f" in features, bfloat16=bool(features & _BFLOAT16))


def _features(cpuinfo: str) -> frozenset[str]:
    """Return the features of the first processor: `flags` on x86, `Features` on ARM."""
    fields: Mapping[str, str] = {name.strip(): value for name, _, value in (line.partition(":") for line in reversed(cpuinfo.splitlines()))}
    return frozenset((fields.get("flags") or fields.get("Features") or "").split())
