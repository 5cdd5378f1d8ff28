"""tensors.json: what a folder of tensorized weights must hold. It is written last, so a folder without it is not finished."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from seatrial_engine.errors import WeightsRefused

MANIFEST_NAME: Final = "tensors.json"
FORMAT_VERSION: Final = 1
_CHUNK_BYTES: Final = 1 << 20
_TENSORIZE_AGAIN: Final = "tensorize the weights again"


@dataclass(frozen=True, slots=True)
class TensorsFile:
    """One tensorizer file: its name in the folder, size in bytes, SHA-256 in hexadecimal, and how many tensors it holds."""

    name: str
    size: int
    sha256: str
    tensors: int


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor: safetensors' name of its type, its shape, and the tensorizer file that holds it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str


@dataclass(frozen=True, slots=True)
class TensorsManifest:
    """The whole folder; `total_bytes` counts the tensors' bytes, not the files'."""

    files: tuple[TensorsFile, ...]
    tensors: tuple[TensorRecord, ...]
    total_bytes: int

    def to_json(self) -> bytes:
        """Render the manifest; the same weights give the same bytes."""
        document = {"format": FORMAT_VERSION, **asdict(self)}
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> "TensorsManifest":
        """Read a manifest. Raises WeightsRefused when it is of another format or malformed."""
        try:
            document = json.loads(raw)
            version = document["format"]
            if version != FORMAT_VERSION:
                raise WeightsRefused(f"{MANIFEST_NAME}: format {version}, this engine reads {FORMAT_VERSION}", _TENSORIZE_AGAIN)
            files = tuple(TensorsFile(**entry) for entry in document["files"])
            tensors = tuple(TensorRecord(**{**entry, "shape": tuple(entry["shape"])}) for entry in document["tensors"])
            return cls(files, tensors, int(document["total_bytes"]))
        except (ValueError, TypeError, KeyError) as error:
            raise WeightsRefused(f"{MANIFEST_NAME}: malformed", _TENSORIZE_AGAIN) from error


def header_only_safetensors(path: Path, manifest: TensorsManifest) -> None:
    """Write a safetensors file of the manifest's names, types and shapes that holds no numbers, for readers of headers."""
    entries = {record.name: {"dtype": record.dtype, "shape": record.shape, "data_offsets": (0, 0)} for record in manifest.tensors}
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def sha256_of(stream: BinaryIO) -> str:
    """Hash a stream from where it stands to its end."""
    return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, whatever dies in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_file(expected: TensorsFile, size: int, read: Callable[[], Iterable[bytes]]) -> None:
    """Compare a file with its record, size first. Raises WeightsRefused, which names the file."""
    verify_size(expected, size)
    digest = hashlib.sha256()
    for chunk in read():
        digest.update(chunk)
    verify_digest(expected, digest.hexdigest())


def verify_size(expected: TensorsFile, size: int) -> None:
    """Compare a file's size with its record."""
    if size != expected.size:
        raise WeightsRefused(f"{expected.name}: {size} bytes, {MANIFEST_NAME} says {expected.size}", _TENSORIZE_AGAIN)


def verify_digest(expected: TensorsFile, sha256: str) -> None:
    """Compare a file's SHA-256 with its record."""
    if sha256 != expected.sha256:
        raise WeightsRefused(f"{expected.name}: its SHA-256 differs from the one in {MANIFEST_NAME}", _TENSORIZE_AGAIN)


def chunks_of(stream: BinaryIO) -> Iterable[bytes]:
    """Yield a stream's content in pieces of a mebibyte."""
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk
