"""Weights and small files in S3, or in any server that speaks its protocol: read in ranges, several at once, without a file on disk.

Credentials and endpoint come from the usual AWS places (workload identity, AWS_* variables, AWS_ENDPOINT_URL_S3).
"""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from seatrial_engine.manifest import MANIFEST_NAME

PART_BYTES: Final = 16 << 20
AHEAD: Final = 4
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.5
_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})


class StoreAway(OSError):
    """The store did not answer, or refused us; what it holds is not to blame."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object: its name below the prefix, and its size in bytes."""

    name: str
    size: int


class S3Prefix:
    """The objects below `s3://bucket/prefix`. A missing object raises FileNotFoundError, everything else StoreAway."""

    def __init__(self, uri: str, *, endpoint_url: str | None = None) -> None:
        parts = urlsplit(uri)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        # Checksums only when required: servers other than AWS's fail on the checksums that boto3 adds by default.
        config = Config(
            response_checksum_validation="when_required",
            request_checksum_calculation="when_required",
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=AHEAD * 2 + 2,
        )
        # A session of its own: making a client of the shared one is not thread-safe, and it remembers credentials.
        self._client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)

    def list(self) -> Iterator[StoredObject]:
        """Yield every object below the prefix."""
        start = f"{self._prefix}/"
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=start):
                for item in page.get("Contents", ()):
                    yield StoredObject(item["Key"].removeprefix(start), item["Size"])
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, f"s3://{self._bucket}/{self._prefix}") from error

    def size(self, name: str) -> int:
        """Return an object's size in bytes."""
        try:
            return int(self._client.head_object(Bucket=self._bucket, Key=self._key(name))["ContentLength"])
        except (ClientError, BotoCoreError) as error:
            raise _translated(error, self._uri(name)) from error

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Return the bytes from `begin` to before `end`; the whole without it. A body that breaks off is asked for again."""
        given = {"Range": f"bytes={begin}-{end - 1}"} if end is not None else {}
        for attempt in range(_ATTEMPTS):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=self._key(name), **given)["Body"].read()
            except ClientError as error:
                raise _translated(error, self._uri(name)) from error
            except (BotoCoreError, OSError) as error:
                if attempt == _ATTEMPTS - 1:
                    raise StoreAway(f"{self._uri(name)}: {error}") from error
                threading.Event().wait(_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _uri(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._key(name)}"


class S3Tensors:
    """Tensorized weights in S3: the `TensorsSource` of `weights`."""

    def __init__(self, uri: str, *, endpoint_url: str | None = None) -> None:
        self._objects = S3Prefix(uri, endpoint_url=endpoint_url)

    def manifest(self) -> bytes:
        """Read tensors.json whole."""
        return self._objects.read(MANIFEST_NAME)

    def size(self, name: str) -> int:
        """Return a file's size in bytes."""
        return self._objects.size(name)

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading and seeking; what follows is fetched while what is there is used."""
        size = self._objects.size(name)
        return io.BufferedReader(RangedReader(lambda begin, end: self._objects.read(name, begin, end), size), 1 << 20)


class RangedReader(io.RawIOBase):
    """A file that is fetched in parts of `part` bytes, `ahead` of them before they are asked for: (ahead + 1) * part bytes of memory."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, *, part: int = PART_BYTES, ahead: int = AHEAD) -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._part = part
        self._ahead = ahead
        self._position = 0
        self._parts: dict[int, Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(ahead + 1, thread_name_prefix="seatrial-s3")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is fetched for it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with what the present part still has. Raises StoreAway when the store gave less than it announced."""
        view = memoryview(buffer).cast("B")
        if self._position >= self._size or not view:
            return 0
        number, within = divmod(self._position, self._part)
        piece = self._at(number)[within : within + len(view)]
        if not piece:
            raise StoreAway(f"the store gave less than the {self._size} bytes that it announced")
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        """Drop what is under way."""
        if not self.closed:
            self._parts.clear()
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _at(self, number: int) -> bytes:
        last = (self._size - 1) // self._part
        for wanted in range(number, min(number + self._ahead, last) + 1):
            if wanted not in self._parts:
                begin = wanted * self._part
                self._parts[wanted] = self._pool.submit(self._fetch, begin, min(begin + self._part, self._size))
        for passed in [known for known in self._parts if known < number - 1]:
            del self._parts[passed]
        return self._parts[number].result()


def _translated(error: ClientError | BotoCoreError, what: str) -> OSError:
    if isinstance(error, ClientError) and str(error.response.get("Error", {}).get("Code")) in _ABSENT:
        return FileNotFoundError(what)
    return StoreAway(f"{what}: {error}")
