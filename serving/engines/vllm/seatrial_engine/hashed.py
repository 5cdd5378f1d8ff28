"""A stream that hashes the file while somebody else reads it, each byte once and in order, wherever the reader jumps."""

import hashlib
import io
from typing import BinaryIO, Final

_CHUNK_BYTES: Final = 1 << 20


class HashedStream(io.RawIOBase):
    """Reads through to `stream`; `finish` reads the unread rest and returns the SHA-256 of the whole."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._digest = hashlib.sha256()
        self._hashed = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._stream.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move."""
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer as far as the file goes, and hash what is new."""
        view = memoryview(buffer).cast("B")
        begin = self._stream.tell()
        if begin > self._hashed:
            self._catch_up(begin)
        count = 0
        while count < len(view):
            got = self._stream.readinto(view[count:])  # type: ignore[attr-defined]  # binary streams have it
            if not got:
                break
            count += got
        new = self._hashed - begin
        if 0 <= new < count:
            self._digest.update(view[new:count])
            self._hashed = begin + count
        return count

    def finish(self) -> str:
        """Read to the end and return the SHA-256 in hexadecimal."""
        self._stream.seek(self._hashed)
        while chunk := self._stream.read(_CHUNK_BYTES):
            self._digest.update(chunk)
            self._hashed += len(chunk)
        return self._digest.hexdigest()

    def _catch_up(self, begin: int) -> None:
        """Hash what the reader jumps over."""
        self._stream.seek(self._hashed)
        while self._hashed < begin and (chunk := self._stream.read(min(_CHUNK_BYTES, begin - self._hashed))):
            self._digest.update(chunk)
            self._hashed += len(chunk)
        self._stream.seek(begin)
