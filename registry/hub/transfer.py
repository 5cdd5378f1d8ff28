"""Download one file from the hub: resume after an interruption, and check against the listing before the file gets its name.

The library's own `hf_hub_download` (2.4) discards an unfinished file, and waits and retries without a report. So this module reads
the bytes, with the library's client, headers, addresses and errors. The library's other transport (xet) is not used.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import httpx2
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined] # documented, but in no __all__

from core.errors import Fault, Refused, Transient
from core.ids import Digest
from core.ports.clock import Clock
from core.reasons import Reason
from core.versions import FileDigest, HubFile
from registry.files import chunks

_REPORT_BYTES = 256 * 1024
_PARTIAL = 206
_RANGE_REFUSED = 416


class Stopped(Exception):
    """Another part of the same download failed or was cancelled."""


@dataclass(frozen=True, slots=True)
class Link:
    """How to reach the hub, how long to wait for it, and whom to tell. `report` gets bytes gained, or lost when negative."""

    client: httpx2.Client
    headers: Mapping[str, str]
    stall_s: float
    deadline: float
    clock: Clock
    report: Callable[[int], None]
    stop: threading.Event = field(default_factory=threading.Event)

    def check(self, what: str) -> None:
        """Raise when the work is to end."""
        if self.stop.is_set():
            raise Stopped
        if self.clock.monotonic() > self.deadline:
            raise Transient(f"{what}: the download takes longer than its limit", hint="retried automatically; received bytes are kept")


class _Read:
    """What has been read of a file: size, sha256, and its git oid (sha1 over `blob <size>`, a zero byte and the content)."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._sha256.update(chunk)
        if self._file.sha256 is None:
            self._git.update(chunk)

    @property
    def right(self) -> bool:
        if self.size != self._file.size:
            return False
        if self._file.sha256 is not None:
            return self._sha256.hexdigest() == self._file.sha256
        return self._git.hexdigest() == self._file.git_oid

    def digest(self) -> FileDigest:
        return FileDigest(self._file.path, self.size, Digest(self._sha256.hexdigest()))


def bring(link: Link, url: str, file: HubFile, part: Path, target: Path) -> FileDigest:
    """Fetch `file` into `part` and rename it to `target`. Nothing is fetched when `target` is already correct.

    Raises Refused (`wrong_bytes`) when the bytes differ from the listing, and differ again after a second fetch from the start.
    """
    if file.sha256 is None and file.git_oid is None:
        raise Fault(f"{file.path}: the hub lists no digest of it", hint="see SEATRIAL_HUB_ENDPOINT; a mirror must list blobs")
    standing = _standing(file, target)
    if standing is not None:
        link.report(file.size)
        return standing
    part.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        read = _continue(link, url, file, part)
        if read.right:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
            return read.digest()
        part.unlink()
        link.report(-read.size)
    raise Refused(
        f"{file.path}: twice {read.size} bytes came whose digest is not the one that the hub lists ({file.size} bytes)",
        reason=Reason.WRONG_BYTES,
        hint="upload the file again, or use another mirror, and submit again",
    )


def _standing(file: HubFile, target: Path) -> FileDigest | None:
    if not target.is_file() or target.stat().st_size != file.size:
        return None
    read = _Read(file)
    for chunk in chunks(target):
        read.add(chunk)
    return read.digest() if read.right else None


def _continue(link: Link, url: str, file: HubFile, part: Path) -> _Read:
    """Append what `part` lacks, and return what it then holds. What came before a cut stays in `part`."""
    with part.open("ab+") as out:
        read = _Read(file)
        if out.tell() > file.size:
            out.truncate(0)
        out.seek(0)
        while chunk := out.read(_REPORT_BYTES):
            read.add(chunk)
        link.report(read.size)
        if read.size == file.size:
            return read
        return _stream(link, url, file, out, read)


def _stream(link: Link, url: str, file: HubFile, out: BinaryIO, read: _Read) -> _Read:
    link.check(file.path)
    headers = {**link.headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={read.size}-"} if read.size else {})
    with link.client.stream("GET", url, headers=headers, timeout=link.stall_s, follow_redirects=True) as response:
        if response.status_code == _RANGE_REFUSED and read.size:
            return read  # the hub's file is shorter than ours: ours is wrong, so it is fetched again from the start
        hf_raise_for_status(response)
        if read.size and not _continues(response, read.size):
            link.report(-read.size)
            out.truncate(0)
            read = _Read(file)
        for chunk in _reported(link, response):
            link.check(file.path)
            out.write(chunk)
            read.add(chunk)
            if read.size > file.size:
                break  # more than was listed: not right
    return read


def _continues(response: httpx2.Response, at: int) -> bool:
    return response.status_code == _PARTIAL and response.headers.get("Content-Range", "").startswith(f"bytes {at}-")


def _reported(link: Link, response: httpx2.Response) -> Iterator[bytes]:
    gained = 0
    try:
        for chunk in response.iter_bytes():
            gained += len(chunk)
            yield chunk
            if gained >= _REPORT_BYTES:
                link.report(gained)
                gained = 0
    finally:
        link.report(gained)
