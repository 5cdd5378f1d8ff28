"""What `seatrial doctor` reads of a CPU: its model, its features, and the kernels that engines use on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.settings import read_settings
from infra.local.cpu import Look, looks
from infra.local.doctor import examine

AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl"
X86 = "processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: {model}\nflags\t\t: fpu sse2 {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n"
XEON = X86.format(
    vendor="GenuineIntel",
    model="Intel(R) Xeon(R) Platinum 8481C",
    flags=f"avx2 {AVX512} avx512_bf16 avx512_vnni amx_bf16 amx_tile amx_int8",
)
GENOA = X86.format(vendor="AuthenticAMD", model="AMD EPYC 9B14", flags=f"avx2 {AVX512} avx512_bf16 avx512_vnni")
MILAN = X86.format(vendor="AuthenticAMD", model="AMD EPYC 7B13", flags="avx avx2")
SKYLAKE = X86.format(vendor="GenuineIntel", model="Intel(R) Xeon(R) CPU @ 2.00GHz", flags=f"avx2 {AVX512}")
OLD = X86.format(vendor="GenuineIntel", model="Intel(R) Xeon(R) CPU E5-2670 0", flags="avx sse4_2")
ARM = "processor\t: 0\nFeatures\t: fp asimd crc32 i8mm bf16 sve\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"
BARE_ARM = "processor\t: 0\nFeatures\t: fp\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n"


def seen(tmp_path: Path, text: str, machine: str = "x86_64") -> dict[str, Look]:
    (tmp_path / "cpuinfo").write_text(text)
    return {look.name: look for look in looks(tmp_path / "cpuinfo", machine)}


@pytest.mark.parametrize(
    ("text", "machine", "cpu", "kernels"),
    [
        (MILAN, "x86_64", "AMD EPYC 7B13: avx2", "AVX2; attention vec"),
        (SKYLAKE, "x86_64", "Intel(R) Xeon(R) CPU @ 2.00GHz: avx2 avx512f", "AVX-512; attention vec"),
        (GENOA, "x86_64", "AMD EPYC 9B14: avx2 avx512f avx512_bf16 avx512_vnni", "AVX-512 with bfloat16; attention vec"),
        (ARM, "aarch64", "ARM implementer 0x41 part 0xd4f: asimd bf16 i8mm sve", "NEON with bfloat16; attention neon"),
    ],
    ids=["Milan", "Skylake", "Genoa", "ARM"],
)
def test_the_cpu_its_features_and_the_kernels_are_named(tmp_path: Path, text: str, machine: str, cpu: str, kernels: str) -> None:
    found = seen(tmp_path, text, machine)
    assert (found["cpu"].ok, found["cpu"].what) == (True, cpu)
    assert (found["kernels"].ok, found["kernels"].what) == (True, kernels)


def test_on_a_cpu_with_amx_it_says_that_amx_is_off_and_why(tmp_path: Path) -> None:
    found = seen(tmp_path, XEON)
    assert "amx_tile amx_bf16 amx_int8" in found["cpu"].what
    assert found["kernels"].what.startswith("AVX-512 with bfloat16; attention vec; AMX is switched off")
    assert "wrong answers" in found["kernels"].what


@pytest.mark.parametrize(("text", "machine", "needs"), [(OLD, "x86_64", "AVX2 or AVX-512"), (BARE_ARM, "aarch64", "Advanced SIMD")])
def test_a_cpu_that_vllm_does_not_run_on_is_a_fault(tmp_path: Path, text: str, machine: str, needs: str) -> None:
    found = seen(tmp_path, text, machine)
    assert list(found) == ["cpu"]
    assert found["cpu"].ok is False
    assert f"needs a CPU with {needs}" in found["cpu"].next


def test_doctor_shows_both_on_this_machine(tmp_path: Path) -> None:
    names = [finding.name for finding in examine(read_settings({}, home=tmp_path))]
    assert names.index("cpu") + 1 == names.index("kernels")
