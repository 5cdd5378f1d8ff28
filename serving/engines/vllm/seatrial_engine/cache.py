"""Weights that a node has read once: kept on a volume of its own, so that the next engine there does not fetch them again."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from seatrial_engine.manifest import chunks_of

if TYPE_CHECKING:
    from seatrial_engine.weights import TensorsSource

CACHE_VARIABLE: Final = "SEATRIAL_WEIGHTS_CACHE"


class CachedTensors:
    """A `TensorsSource` before another one. What is kept is verified like what is fetched, and dropped when it differs."""

    def __init__(self, uri: str, source: "TensorsSource", folder: Path) -> None:
        self._source = source
        self._folder = folder / hashlib.sha256(uri.encode()).hexdigest()[:32]

    def manifest(self) -> bytes:
        """Read tensors.json where it lies: it is small, and says what the rest must be."""
        return self._source.manifest()

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        kept = self._folder / name
        return kept.stat().st_size if kept.is_file() else self._source.size(name)

    def open(self, name: str) -> BinaryIO:
        """Open the kept file; fetch it first where there is none. Without room to keep it, it is read where it lies."""
        kept = self._folder / name
        if not kept.is_file():
            try:
                self._keep(name, kept)
            except FileNotFoundError:
                raise
            except OSError:
                return self._source.open(name)
        return kept.open("rb")

    def forget(self, name: str) -> bool:
        """Drop a kept file; say whether there was one."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / name).unlink()
            return True
        return False

    def _keep(self, name: str, kept: Path) -> None:
        """Write beside, then rename: several engines may fetch the same file at once."""
        with self._source.open(name) as stream:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = kept.with_name(f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
            try:
                with beside.open("wb") as output:
                    for chunk in chunks_of(stream):
                        output.write(chunk)
                beside.replace(kept)
            finally:
                beside.unlink(missing_ok=True)
