"""Reads tensorized weights back, and lets nothing serve that its manifest does not vouch for.

To add a place that weights can lie in, write one more class like `FolderTensors` and name its scheme in `open_tensors`. Nothing else
changes.
"""

import hashlib
import io
import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from tensorizer import TensorDeserializer
from tensorizer.serialization import HashMismatchError

from seatrial_engine.cache import CACHE_VARIABLE, CachedTensors
from seatrial_engine.errors import WeightsRefused
from seatrial_engine.hashed import HashedStream
from seatrial_engine.manifest import (
    MANIFEST_NAME,
    TensorRecord,
    TensorsFile,
    TensorsManifest,
    chunks_of,
    verify_digest,
    verify_file,
    verify_size,
)

if TYPE_CHECKING:
    import torch


class TensorsSource(Protocol):
    """A place that holds tensors.json and the files that it names. A missing file raises FileNotFoundError."""

    def manifest(self) -> bytes:
        """Read tensors.json whole."""
        ...

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading and seeking."""
        ...


class FolderTensors:
    """Tensorized weights in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifest(self) -> bytes:
        """Read tensors.json whole."""
        return (self._folder / MANIFEST_NAME).read_bytes()

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return (self._folder / name).stat().st_size

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading and seeking."""
        return (self._folder / name).open("rb")


def open_tensors(uri: str) -> TensorsSource:
    """Choose the reader by URI: a path, file:// or s3://. Where the environment names a cache, what comes from afar is kept there."""
    parts = urlsplit(uri)
    match parts.scheme:
        case "":
            return FolderTensors(Path(uri))
        case "file":
            return FolderTensors(Path(unquote(parts.path)))
        case "s3":
            from seatrial_engine.store import S3Tensors  # noqa: PLC0415 - boto3 is only paid for where it is used

            return _cached(uri, S3Tensors(uri))
        case scheme:
            raise WeightsRefused(f"{uri}: no reader for {scheme}://", "give a folder, a file:// or an s3:// URI")


def _cached(uri: str, source: TensorsSource) -> TensorsSource:
    folder = os.environ.get(CACHE_VARIABLE)
    return CachedTensors(uri, source, Path(folder)) if folder else source


def open_manifest(source: TensorsSource, expected_sha256: str) -> TensorsManifest:
    """Read tensors.json and compare it with the hash that the platform recorded. Raises WeightsRefused."""
    try:
        raw = source.manifest()
    except FileNotFoundError as error:
        raise WeightsRefused(f"{MANIFEST_NAME}: missing, the weights are not finished", "tensorize the weights again") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != expected_sha256:
        raise WeightsRefused(f"{MANIFEST_NAME}: SHA-256 {found} is not the expected {expected_sha256}", "register the weights again")
    return TensorsManifest.from_json(raw)


def read_weights(source: TensorsSource, manifest: TensorsManifest) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Yield every tensor on the CPU, file by file, each file verified: a local one before its first tensor, one from afar while it is read.

    Raises WeightsRefused when a file is missing, or differs from the manifest in size, hash, or tensors. Only who has read to the end
    may use what was yielded.
    """
    for file in manifest.files:
        records = {record.name: record for record in manifest.tensors if record.file == file.name}
        yield from _read_file(source, file, records)


def _read_file(source: TensorsSource, file: TensorsFile, records: dict[str, TensorRecord]) -> Iterator[tuple[str, "torch.Tensor"]]:
    try:
        with source.open(file.name) as stream:
            read = _verified_first if _is_local(stream) else _verified_while_read
            yield from read(stream, source.size(file.name), file, records)
    except FileNotFoundError as error:
        raise WeightsRefused(f"{file.name}: missing", "tensorize the weights again") from error
    except WeightsRefused as refusal:
        if isinstance(source, CachedTensors) and source.forget(file.name):
            raise OSError(f"the kept copy of {file.name} was damaged and is dropped: {refusal.what}") from refusal
        raise


def _is_local(stream: BinaryIO) -> bool:
    """Tell whether reading twice costs nothing: the second time comes from the page cache."""
    return isinstance(getattr(stream, "raw", None), io.FileIO)


def _verified_first(
    stream: BinaryIO, size: int, file: TensorsFile, records: dict[str, TensorRecord]
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Hash the whole file before the first of its tensors is handed out."""
    verify_file(file, size, lambda: chunks_of(stream))
    stream.seek(0)
    try:
        yield from _tensors(stream, file, records)
    except HashMismatchError as error:
        raise WeightsRefused(f"{file.name}: {error}", "tensorize the weights again") from error


def _verified_while_read(
    stream: BinaryIO, size: int, file: TensorsFile, records: dict[str, TensorRecord]
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Fetch the file once: each tensor is compared with tensorizer's own hash as it comes, the whole file with ours at its end.

    Tensors of a file that turns out to differ were handed out by then; the refusal ends the engine before it serves anything.
    """
    verify_size(file, size)
    hashed = HashedStream(stream)
    try:
        yield from _tensors(hashed, file, records)
    except (HashMismatchError, ValueError, KeyError, EOFError, struct.error, RuntimeError) as error:
        verify_digest(file, hashed.finish())
        raise WeightsRefused(f"{file.name}: {error}", "tensorize the weights again") from error
    verify_digest(file, hashed.finish())


def _tensors(stream: BinaryIO, file: TensorsFile, records: dict[str, TensorRecord]) -> Iterator[tuple[str, "torch.Tensor"]]:
    with TensorDeserializer(stream, device="cpu", lazy_load=True, verify_hash=True, num_readers=1) as deserializer:
        _compare_names(file, deserializer, records)
        for _index, _type, name, tensor in deserializer.read_tensors():
            _compare_shape(file, records[str(name)], tuple(tensor.shape))
            yield str(name), tensor


def _compare_names(file: TensorsFile, deserializer: TensorDeserializer, records: dict[str, TensorRecord]) -> None:
    names = {str(name) for name in deserializer.keys()}  # noqa: SIM118 - tensorizer's mapping iterates over something else
    if len(names) != file.tensors or names != records.keys():
        differing = next(iter(sorted(itertools.chain(names - records.keys(), records.keys() - names))), "none")
        what = f"{file.name}: holds {len(names)} tensors, {MANIFEST_NAME} says {file.tensors}; first to differ: {differing}"
        raise WeightsRefused(what, "tensorize the weights again")


def _compare_shape(file: TensorsFile, record: TensorRecord, shape: tuple[int, ...]) -> None:
    if shape != record.shape:
        what = f"{file.name}: tensor {record.name} has shape {shape}, {MANIFEST_NAME} says {record.shape}"
        raise WeightsRefused(what, "tensorize the weights again")
