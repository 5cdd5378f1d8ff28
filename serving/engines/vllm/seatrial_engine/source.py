"""Reads what a folder of safetensors holds, from its headers alone: no tensor is loaded.

The format: 8 bytes with the header's length (little endian), the header as JSON (name -> dtype, shape, begin and end of its
bytes), then the bytes of all tensors without a gap.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from seatrial_engine.errors import WeightsRefused

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_MAX_HEADER_BYTES: Final = 100_000_000  # safetensors' own bound
_UPLOAD_AGAIN: Final = "upload the file again; it is not what safetensors wrote"

_BITS: Final[Mapping[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor as a safetensors header declares it; `offset` orders the tensors of a file as they lie in it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int
    file: Path


def read_source(folder: Path) -> tuple[SourceTensor, ...]:
    """List every tensor of `folder`, ordered by file and by place in it.

    Raises WeightsRefused for a folder without safetensors, a broken or cut file, a tensor that two files hold, and an index that
    disagrees with its files; OSError for what the machine does.
    """
    files = _files(folder)
    tensors = tuple(tensor for file in files for tensor in read_header(file))
    if not tensors:
        raise WeightsRefused(f"{folder.name}: its safetensors hold no tensor", "upload the model's weights as safetensors")
    _refuse_duplicates(tensors)
    _compare_with_index(folder, tensors)
    return tensors


def read_header(file: Path) -> tuple[SourceTensor, ...]:
    """List the tensors of one safetensors file in the order of their bytes. Raises WeightsRefused when the file is broken."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 0 < length <= min(_MAX_HEADER_BYTES, size - 8):  # noqa: PLR2004 - the length field's own size
            raise WeightsRefused(f"{file.name}: a header of {length} bytes does not fit a file of {size} bytes", _UPLOAD_AGAIN)
        raw = stream.read(length)
    header = _parse(file, raw)
    header.pop("__metadata__", None)
    data_bytes = size - 8 - length
    tensors = sorted((_tensor(file, name, entry) for name, entry in header.items()), key=lambda tensor: (tensor.offset, tensor.name))
    _refuse_gaps(file, tensors, data_bytes)
    return tuple(tensors)


def _files(folder: Path) -> tuple[Path, ...]:
    index = folder / _INDEX
    if index.is_file():
        names = sorted({str(value) for value in _weight_map(index).values()})
        _refuse_foreign_names(names)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise WeightsRefused(f"{_INDEX}: names {missing[0]}, which is not there", "upload every shard that the index names")
        return tuple(folder / name for name in names)
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    found = tuple(sorted(folder.glob("*.safetensors")))
    if not found:
        raise WeightsRefused(f"{folder.name}: no *.safetensors file", "upload the model's weights as safetensors")
    return found


def _refuse_foreign_names(names: Iterable[str]) -> None:
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsRefused(f"{_INDEX}: {name!r} is not a safetensors file beside it", "let the index name files of its own folder")


def _weight_map(index: Path) -> dict[str, str]:
    document = _parse(index, index.read_bytes())
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsRefused(f"{index.name}: no weight_map", "upload the index that belongs to the shards")
    return weight_map


def _parse(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise WeightsRefused(f"{file.name}: its header is not JSON", _UPLOAD_AGAIN) from error
    if not isinstance(document, dict):
        raise WeightsRefused(f"{file.name}: its header is not an object", _UPLOAD_AGAIN)
    return document


def _tensor(file: Path, name: str, entry: Any) -> SourceTensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        well_formed = all(type(number) is int and number >= 0 for number in (*shape, begin, end)) and isinstance(dtype, str)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsRefused(f"{file.name}: tensor {name} lacks its dtype, shape or place", _UPLOAD_AGAIN) from error
    if not well_formed:
        raise WeightsRefused(f"{file.name}: tensor {name} has a malformed dtype, shape or place", _UPLOAD_AGAIN)
    if dtype not in _BITS:
        raise WeightsRefused(f"{file.name}: tensor {name} is of type {dtype}, which cannot be tensorized", "convert it to another type")
    if end - begin != math.prod(shape) * _BITS[dtype] // 8:
        raise WeightsRefused(f"{file.name}: tensor {name} has {end - begin} bytes, not those of its shape", _UPLOAD_AGAIN)
    return SourceTensor(name, dtype, tuple(shape), end - begin, begin, file)


def _refuse_gaps(file: Path, tensors: Iterable[SourceTensor], data_bytes: int) -> None:
    position = 0
    for tensor in tensors:
        if tensor.offset != position:
            raise WeightsRefused(f"{file.name}: tensor {tensor.name} does not follow the one before it", _UPLOAD_AGAIN)
        position += tensor.nbytes
    if position != data_bytes:
        raise WeightsRefused(f"{file.name}: holds {data_bytes} bytes of tensors, its header declares {position}", _UPLOAD_AGAIN)


def _refuse_duplicates(tensors: Iterable[SourceTensor]) -> None:
    seen: dict[str, Path] = {}
    for tensor in tensors:
        if tensor.name in seen:
            files = f"{seen[tensor.name].name} and {tensor.file.name}"
            raise WeightsRefused(f"{tensor.name}: held by both {files}", "keep one set of weights in the folder, or add its index")
        seen[tensor.name] = tensor.file


def _compare_with_index(folder: Path, tensors: Iterable[SourceTensor]) -> None:
    index = folder / _INDEX
    if not index.is_file():
        return
    declared = {(name, str(file)) for name, file in _weight_map(index).items()}
    found = {(tensor.name, tensor.file.name) for tensor in tensors}
    differing = sorted(declared ^ found)
    if differing:
        name, file = differing[0]
        where = "the index only" if differing[0] in declared else "the file only"
        raise WeightsRefused(f"{_INDEX}: tensor {name} of {file} is in {where}", "upload the index that belongs to the shards")
