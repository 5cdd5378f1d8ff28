"""The header of a safetensors file, read with nothing taken on trust.

The format (huggingface/safetensors, README "Format"): 8 bytes little-endian N, N bytes of JSON that map a tensor's name to
`dtype`, `shape` and `data_offsets` [begin, end) into the rest of the file, which the tensors fill without holes or overlap.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from evals.checks.reading import Unreadable, refuse_many, shown

MAX_HEADER_BYTES = 32 * 1024**2
"""Longest header. The format allows 100,000,000 bytes; real ones have less than 10 MB. Text takes up to four times this in memory."""
_MAX_RANK = 16
_MAX_DIMENSION = 2**48
_MAX_VOLUME = 2**56
"""Bound of the product of a shape's sizes, empty ones counted as 1: libraries multiply them in 64 bits, also for an empty tensor."""
_MAX_VALUES = 2_000_000
"""Most values (strings, numbers, lists, objects) of a header: about 200,000 tensors."""
_MAX_NAME_BYTES = 1024
"""Longest name of a tensor. Real ones have less than 200 bytes; the tensorized form cannot hold more than 65,535."""

BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits per element of each dtype that is accepted: those of the format without `_PACKED`."""

_PACKED = frozenset({"F4", "F6_E2M3", "F6_E3M2"})
"""Dtypes of the format whose elements are smaller than a byte. torch has no type for them, so they cannot be tensorized."""


class BadHeader(ValueError):
    """The header breaks the format; the text says how."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: where its bytes lie after the header, [begin, end)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A sound header: tensors in the order of their bytes, which fill [0, data_bytes) exactly."""

    tensors: tuple[Tensor, ...]
    data_bytes: int


def header_length(prefix: bytes) -> int:
    """Return the header's length from a file's first 8 bytes. Raises BadHeader."""
    if len(prefix) < 8:  # noqa: PLR2004 - the format's
        raise BadHeader("it is empty" if not prefix else f"it has only {len(prefix)} bytes")
    length = int.from_bytes(prefix[:8], "little")
    if not 2 <= length <= MAX_HEADER_BYTES:  # noqa: PLR2004 - "{}"
        raise BadHeader(f"its header length must be between 2 and {MAX_HEADER_BYTES} bytes, got {length}")
    return length


def parse_header(raw: bytes) -> Header:
    """Read the JSON part of a header. Raises BadHeader for whatever breaks the format, and nothing else."""
    document = _document(raw)
    _refuse_metadata(document.get("__metadata__"))
    tensors = [_tensor(name, entry) for name, entry in document.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            raise BadHeader(f"tensor {tensor.name[:80]} must begin at byte {end}, begins at {tensor.begin} ({_gap(tensor.begin, end)})")
        end = tensor.end
    if not tensors:
        raise BadHeader("it holds no tensor")
    return Header(tuple(tensors), end)


def _document(raw: bytes) -> dict[str, Any]:
    try:
        refuse_many("the header", raw, _MAX_VALUES)
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except Unreadable as error:
        raise BadHeader(str(error)) from error
    except RecursionError as error:
        raise BadHeader("the header is nested too deep") from error
    except ValueError as error:
        raise BadHeader(f"the header is not JSON: {str(error)[:100]}") from error
    if not isinstance(document, dict):
        raise BadHeader("the header is not a JSON object")
    return document


def _refuse_metadata(value: Any) -> None:
    if value is not None and not (isinstance(value, dict) and all(isinstance(text, str) for text in value.values())):
        raise BadHeader(f"__metadata__ must map strings to strings, got {shown(value)}")


def _tensor(name: str, entry: Any) -> Tensor:
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadHeader(f"tensor {name[:80]} must have exactly dtype, shape and data_offsets")
    _refuse_name(name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if isinstance(dtype, str) and dtype in _PACKED:
        raise BadHeader(f"tensor {name[:80]} has the dtype {dtype}, which the engine cannot load; store it packed in U8")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise BadHeader(f"tensor {name[:80]} has the dtype {shown(dtype)}; accepted are {', '.join(BITS)}")
    if not _are_sizes(shape, _MAX_DIMENSION) or len(shape) > _MAX_RANK or prod(size or 1 for size in shape) >= _MAX_VOLUME:
        raise BadHeader(f"tensor {name[:80]} has the invalid shape {shown(shape)}")
    if not _are_sizes(offsets, 2**63) or len(offsets) != 2:  # noqa: PLR2004 - begin and end
        raise BadHeader(f"tensor {name[:80]} has the invalid data_offsets {shown(offsets)}")
    begin, end = offsets
    bits = prod(shape) * BITS[dtype]
    if bits % 8 or end - begin != bits // 8:
        raise BadHeader(
            f"tensor {name[:80]} ({dtype}, shape {shown(shape)}) takes {_bytes(bits)} bytes, its data_offsets span {end - begin}"
        )
    return Tensor(name, dtype, tuple(shape), begin, end)


def _refuse_name(name: str) -> None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise BadHeader(f"the tensor name {name[:80]!a} is not UTF-8 text") from error
    if length > _MAX_NAME_BYTES:
        raise BadHeader(f"the name of tensor {name[:80]}... must have at most {_MAX_NAME_BYTES} bytes, has {length}")


def _are_sizes(value: Any, limit: int) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number <= limit for number in value)


def _bytes(bits: int) -> str:
    return str(bits // 8) if bits % 8 == 0 else f"{bits // 8} and a part of one more"


def _gap(begin: int, due: int) -> str:
    return "a hole" if begin > due else "an overlap"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        name = next(name for name, times in Counter(name for name, _value in pairs).items() if times > 1)
        raise Unreadable(f"the name {name[:80]} occurs twice in the header")
    return document
