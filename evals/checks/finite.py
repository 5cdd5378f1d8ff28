"""No weight is NaN or infinite. Streamed, so that memory stays at two blocks whatever the model's size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from core.reasons import Reason
from core.versions import Finding
from evals.checks.header import Tensor
from evals.checks.model_files import ModelFiles, Shard
from evals.checks.report import fail, first_of

_BLOCK_BYTES = 1024**2  # stays in the processor's cache; measured faster than 16 MiB

# Bit patterns (IEEE 754; OCP 8-bit Floating Point Specification 1.0): without its sign bit, `least` or more is not finite.
_PATTERNS: dict[str, tuple[Any, int, int]] = {
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "F32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "C64": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F8_E4M3": (np.uint8, 0x7F, 0x7F),
    "F8_E5M2": (np.uint8, 0x7F, 0x7C),
    "F8_E8M0": (np.uint8, 0xFF, 0xFF),
}


def finite_weights(files: ModelFiles) -> Iterator[Finding]:
    """Scan every floating-point tensor of every sound file."""
    bad: list[str] = []
    for shard in files.shards:
        bad.extend(not_finite(files, shard))
    if bad:
        hold = "tensor holds" if len(bad) == 1 else "tensors hold"
        yield fail(
            Reason.NAN_IN_WEIGHTS,
            f"{files.model}: {len(bad)} {hold} NaN or infinite numbers, first {first_of(bad[:1])}",
            "Upload weights without NaN and infinite numbers and submit again",
        )


def not_finite(files: ModelFiles, shard: Shard) -> Iterator[str]:
    """Yield the names of a shard's tensors that hold NaN or an infinity, in the order of their bytes. A cut file says nothing."""
    if shard.header is None or shard.cut:
        return
    buffer = bytearray(_BLOCK_BYTES)
    with files.open(shard.path) as file:
        for tensor in shard.header.tensors:
            if tensor.dtype in _PATTERNS and _holds_not_finite(file, shard.data_begin, tensor, buffer):
                yield tensor.name


def _holds_not_finite(file: IO[bytes], data_begin: int, tensor: Tensor, buffer: bytearray) -> bool:
    kind, mask, least = _PATTERNS[tensor.dtype]
    view = memoryview(buffer)
    file.seek(data_begin + tensor.begin)
    left = tensor.end - tensor.begin
    while left:
        block = view[: min(left, _BLOCK_BYTES)]
        got = file.readinto(block)  # type: ignore[attr-defined] # a buffered reader, which fills the block unless the file ends
        if got != len(block):
            return False  # it shrank under our hands; the engine checks digests
        numbers = np.frombuffer(block, dtype=kind)
        if int((numbers & kind(mask)).max()) >= least:
            return True
        left -= got
    return False
