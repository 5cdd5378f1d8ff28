"""Bundles in S3, or in any server that speaks its protocol."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from core.errors import NotFound, Transient
from core.ids import Digest, Epoch
from core.ports.clock import Clock, SystemClock
from core.ports.weights import Bundle, Leftover
from core.versions import FileDigest
from registry.files import CHUNK_BYTES, disk_errors, inside
from registry.weights.manifest import (
    BUNDLES,
    OWNER,
    PUBLISHED,
    PURGING,
    STAGED,
    WITHDRAWN,
    Entry,
    Incomplete,
    Manifest,
    Mismatch,
    Withdrawn,
    checked_digest,
    checked_files,
    decode,
    decode_withdrawn,
    incomplete,
    is_digest,
    mismatch,
    missing,
)
from registry.weights.s3_client import code_of, translated

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_PART_BYTES = 16 * 1024 * 1024
_MAX_PARTS = 9_000  # S3 takes 10,000
_SHA256 = "sha256"  # the metadata by which a later attempt sees that an object is whole and the right one
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_NO_UPLOADS = frozenset({"NoSuchUpload", "NotImplemented"})  # rclone's server says the first where AWS sends an empty list
_PURGE_S = 900.0
"""A purge that began longer ago than this was cut off."""


@dataclass(frozen=True, slots=True)
class _Stored:
    size: int
    etag: str


class S3Weights:
    """`WeightsStore` below `prefix` of `bucket`. Two processes that stage the same bundle put the same objects; no lock is needed."""

    def __init__(self, bucket: str, prefix: str, client: S3Client, clock: Clock | None = None) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._client = client
        self._clock = clock or SystemClock()

    def stage(self, digest: Digest, source: Path, files: Sequence[FileDigest]) -> Bundle:
        """Upload files, each hashed while it is sent; an object appears only when its last byte was the announced one."""
        listed = checked_files(files)
        self._finish_purge(digest)
        try:
            return self.reclaim(digest)
        except (Incomplete, Mismatch):
            with translated(f"storing weights {digest[:12]}"):
                self._delete_manifests(digest)
        except NotFound:
            pass  # no manifest; one that another process writes from here on must stay
        with translated(f"storing weights {digest[:12]}"):
            try:
                self._upload_all(digest, source, listed)
            except Mismatch:
                if self._glance(digest) is None:  # else another process stored it well meanwhile, and its objects stay
                    self._delete_objects(digest)
                raise
            manifest = Manifest(digest, self._entries(digest, listed), self._clock.now())
            self._put(self._key(digest, STAGED), manifest.encode())
            if self._purging(digest) is not None:
                self._delete_manifests(digest)
                raise _purged(digest)
            self._client.delete_object(Bucket=self._bucket, Key=self._key(digest, WITHDRAWN))
        try:
            return self.open(digest)  # another process may have published it meanwhile
        except Incomplete as error:
            raise _purged(digest) from error

    def publish(self, digest: Digest) -> Bundle:
        """Write the published manifest, then drop the staged one."""
        bundle = self.open(digest)
        if bundle.published:
            return bundle
        with translated(f"publishing weights {digest[:12]}"):
            manifest, _ = self._manifest(digest)
            self._put(self._key(digest, PUBLISHED), manifest.encode())
            self._client.delete_object(Bucket=self._bucket, Key=self._key(digest, STAGED))
        return manifest.bundle(self._uri(digest), published=True)

    def open(self, digest: Digest) -> Bundle:
        """Return the bundle after one listing of its objects. An object that was written since it was stored is hashed again."""
        with translated(f"reading weights {digest[:12]}"):
            manifest, published = self._manifest(digest)
            stored = self._stored(digest)
            for entry in manifest.entries:
                self._verify(digest, entry, stored.get(entry.file.path))
        return manifest.bundle(self._uri(digest), published=published)

    def list(self) -> tuple[Bundle, ...]:
        """Return every bundle that has a manifest, by digest."""
        with translated(f"listing s3://{self._bucket}/{self._prefix}"):
            names = {
                self._digest_of(key) for key, _ in self._objects(self._join(BUNDLES) + "/") if key.endswith((f"/{STAGED}", f"/{PUBLISHED}"))
            }
            found = (self._glance(Digest(name)) for name in sorted(names) if is_digest(name))
            return tuple(bundle for bundle in found if bundle)

    def delete(self, digest: Digest) -> None:
        """Remove the manifests, then the objects, then the parts of uploads that were cut off (they cost, and no listing shows them)."""
        with translated(f"deleting weights {digest[:12]}"):
            self._delete_manifests(digest)
            self._delete_objects(digest)

    def withdraw(self, digest: Digest) -> bool:
        """Write the manifest under its other name, then delete it."""
        with translated(f"withdrawing weights {digest[:12]}"):
            try:
                manifest, published = self._manifest(digest)
            except NotFound:
                return False
            self._put(self._key(digest, WITHDRAWN), Withdrawn(manifest, published, self._clock.now()).encode())
            self._delete_manifests(digest)
        return True

    def reclaim(self, digest: Digest) -> Bundle:
        """Write the manifest back, then look for a purge: one that has begun wins, one that begins now sees the manifest and gives up."""
        with translated(f"taking back weights {digest[:12]}"):
            hidden = self._read(digest, WITHDRAWN)
            if hidden is not None and self._glance(digest) is None:
                withdrawn = decode_withdrawn(hidden, self._key(digest, WITHDRAWN))
                self._put(self._key(digest, withdrawn.name), withdrawn.manifest.encode())
                if self._purging(digest) is not None:
                    self._delete_manifests(digest)
                    raise _purged(digest)
                self._whole(digest)
            if hidden is not None:
                self._client.delete_object(Bucket=self._bucket, Key=self._key(digest, WITHDRAWN))
        return self.open(digest)

    def leftovers(self) -> tuple[Leftover, ...]:
        """Return the digests under which objects but no manifest are stored, after one listing."""
        newest: dict[str, float] = {}
        sizes: dict[str, int] = {}
        alive: set[str] = set()
        with translated(f"listing s3://{self._bucket}/{self._prefix}"):
            for page in self._pages(self._join(BUNDLES) + "/"):
                for item in page.get("Contents", ()):
                    name = self._digest_of(item["Key"])
                    sizes[name] = sizes.get(name, 0) + item["Size"]
                    newest[name] = max(newest.get(name, 0.0), item["LastModified"].timestamp())
                    if item["Key"].endswith((f"/{STAGED}", f"/{PUBLISHED}")):
                        alive.add(name)
            dead = [Digest(name) for name in sorted(sizes) if is_digest(name) and name not in alive]
            return tuple(Leftover(digest, self._since(digest, newest[digest]), sizes[digest]) for digest in dead)

    def claim(self, installation: str, *, take_over: bool = False) -> str:
        """Write the owner's object; without `take_over` only where there is none."""
        key = self._join(OWNER)
        with translated(f"claiming s3://{self._bucket}/{self._prefix}"):
            owner = self._content(key)
            if owner is None or take_over:
                self._put(key, installation.encode("ascii"))
                owner = self._content(key)  # of two that claim at once, the last one has written
        return installation if owner is None else owner.decode("ascii").strip()

    def purge(self, digest: Digest, before: Epoch) -> bool:
        """Announce the purge, look once more for a manifest, and delete the objects. One that was cut off is finished by the next."""
        with translated(f"deleting weights {digest[:12]}"):
            left = next(iter(self._leftover(digest)), None)
            if left is None or left.since >= before:
                return False
            self._put(self._key(digest, PURGING), json.dumps({"at": self._clock.now()}).encode())
            if self._glance(digest) is not None:  # taken back in this moment
                self._client.delete_object(Bucket=self._bucket, Key=self._key(digest, PURGING))
                return False
            self._delete_objects(digest)
        return True

    def _leftover(self, digest: Digest) -> tuple[Leftover, ...]:
        """Return the leftover under one digest, where there is one."""
        stored = [item for page in self._pages(self._key(digest, "") + "/") for item in page.get("Contents", ())]
        if not stored or any(item["Key"].endswith((f"/{STAGED}", f"/{PUBLISHED}")) for item in stored):
            return ()
        newest = max(item["LastModified"].timestamp() for item in stored)
        return (Leftover(digest, self._since(digest, newest), sum(item["Size"] for item in stored)),)

    def _since(self, digest: Digest, newest: Epoch) -> Epoch:
        hidden = self._read(digest, WITHDRAWN)
        return newest if hidden is None else decode_withdrawn(hidden, self._key(digest, WITHDRAWN)).at

    def _whole(self, digest: Digest) -> None:
        """Raise NotFound, and hide the manifest again, where a purge ended between our look at the withdrawn one and our write."""
        try:
            self.open(digest)
        except Incomplete as error:
            self._delete_manifests(digest)
            raise missing(digest) from error

    def _purging(self, digest: Digest) -> Epoch | None:
        """Return when a purge of this digest began, None where none is under way."""
        raw = self._read(digest, PURGING)
        return None if raw is None else float(json.loads(raw)["at"])

    def _finish_purge(self, digest: Digest) -> None:
        """Delete what a purge that was cut off left. Transient while one may be under way."""
        with translated(f"storing weights {digest[:12]}"):
            began = self._purging(digest)
            if began is None:
                return
            if self._clock.now() - began < _PURGE_S:
                raise _purged(digest)
            self._delete_objects(digest)

    def _read(self, digest: Digest, name: str) -> bytes | None:
        return self._content(self._key(digest, name))

    def _content(self, key: str) -> bytes | None:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except ClientError as error:
            if code_of(error) in _ABSENT:
                return None
            raise

    def _pages(self, prefix: str) -> Iterator[Any]:
        return iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix))

    def _join(self, *parts: str) -> str:
        return "/".join(part for part in (self._prefix, *parts) if part)

    def _key(self, digest: Digest, path: str) -> str:
        return self._join(BUNDLES, checked_digest(digest), path)

    def _uri(self, digest: Digest) -> str:
        return f"s3://{self._bucket}/{self._join(BUNDLES, digest)}"

    def _digest_of(self, key: str) -> str:
        return key.removeprefix(self._join(BUNDLES) + "/").split("/", 1)[0]

    def _objects(self, prefix: str) -> Iterator[tuple[str, _Stored]]:
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                yield item["Key"], _Stored(item["Size"], item["ETag"].strip('"'))

    def _stored(self, digest: Digest) -> dict[str, _Stored]:
        prefix = self._key(digest, "") + "/"
        return {key.removeprefix(prefix): stored for key, stored in self._objects(prefix)}

    def _glance(self, digest: Digest) -> Bundle | None:
        try:
            manifest, published = self._manifest(digest)
        except NotFound:
            return None  # deleted while we look
        return manifest.bundle(self._uri(digest), published=published)

    def _manifest(self, digest: Digest) -> tuple[Manifest, bool]:
        for name in (PUBLISHED, STAGED, PUBLISHED):  # twice: it may be published between the first look and the second
            key = self._key(digest, name)
            try:
                body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    continue
                raise
            return decode(body.read(), f"s3://{self._bucket}/{key}"), name == PUBLISHED
        raise missing(digest)

    def _put(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=content, ContentType="application/json")

    def _upload_all(self, digest: Digest, source: Path, files: Sequence[FileDigest]) -> None:
        stored = self._stored(digest)
        for file in files:
            there = stored.get(file.path)
            if there is None or there.size != file.size or self._announced(digest, file) != file.sha256:
                self._upload(digest, inside(source, file.path), file)

    def _announced(self, digest: Digest, file: FileDigest) -> str | None:
        head = self._client.head_object(Bucket=self._bucket, Key=self._key(digest, file.path))
        return {name.lower(): value for name, value in head["Metadata"].items()}.get(_SHA256)  # some servers capitalise the names

    def _upload(self, digest: Digest, path: Path, file: FileDigest) -> None:
        part_bytes = max(_PART_BYTES, -(-file.size // _MAX_PARTS))
        config = TransferConfig(
            multipart_threshold=part_bytes,
            multipart_chunksize=part_bytes,
            max_concurrency=4,
            preferred_transfer_client="classic",  # the other one ignores endpoint_url
        )
        if not path.is_file():
            raise mismatch(digest, file.path, f"is not in {path.parent}")
        with disk_errors(f"reading {path}"), path.open("rb") as raw:
            body = cast("IO[bytes]", _Announced(raw, digest, file))
            extra: dict[str, Any] = {"Metadata": {_SHA256: file.sha256}}
            self._client.upload_fileobj(body, self._bucket, self._key(digest, file.path), ExtraArgs=extra, Config=config)

    def _entries(self, digest: Digest, files: Sequence[FileDigest]) -> tuple[Entry, ...]:
        stored = self._stored(digest)
        for file in files:
            if file.path not in stored or stored[file.path].size != file.size:
                raise Transient(f"weights {digest[:12]}: {file.path} was changed by somebody else while we stored it")
        return tuple(Entry(file, stored[file.path].etag) for file in files)

    def _verify(self, digest: Digest, entry: Entry, stored: _Stored | None) -> None:
        if stored is None:
            raise incomplete(digest, entry.file.path)
        if stored.size != entry.file.size:
            raise mismatch(digest, entry.file.path, f"has {stored.size} bytes, its manifest says {entry.file.size}")
        if stored.etag != entry.stamp and self._sha256(digest, entry.file.path) != entry.file.sha256:
            raise mismatch(digest, entry.file.path, "was changed after it was stored")

    def _sha256(self, digest: Digest, path: str) -> str:
        read = hashlib.sha256()
        body = self._client.get_object(Bucket=self._bucket, Key=self._key(digest, path))["Body"]
        for chunk in body.iter_chunks(CHUNK_BYTES):
            read.update(chunk)
        return read.hexdigest()

    def _delete_manifests(self, digest: Digest) -> None:
        for name in (PUBLISHED, STAGED):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(digest, name))

    def _delete_objects(self, digest: Digest) -> None:
        prefix = self._key(digest, "") + "/"
        keys = [key for key, _ in self._objects(prefix)]  # listed whole first: a listing that shrinks while it is read skips
        for key in sorted(keys, key=lambda key: key.endswith(f"/{PURGING}")):  # the mark of a purge goes last
            self._client.delete_object(Bucket=self._bucket, Key=key)
        try:
            self._abort_uploads(prefix)
        except ClientError as error:
            if code_of(error) not in _NO_UPLOADS:
                raise

    def _abort_uploads(self, prefix: str) -> None:
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix):
            for upload in page.get("Uploads", ()):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])


class _Announced(io.RawIOBase):
    """A file that can be read once, forwards, and raises at its end when its bytes were not the announced ones: the upload then fails."""

    def __init__(self, raw: io.BufferedReader, digest: Digest, expected: FileDigest) -> None:
        super().__init__()
        self._raw = raw
        self._of = digest
        self._expected = expected
        self._read = hashlib.sha256()
        self._left = expected.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return False, so that the bytes are sent in the order in which they are hashed."""
        return False

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises Fault as soon as they cannot be the announced ones any more."""
        chunk = self._raw.read(size)
        self._read.update(chunk)
        self._left -= len(chunk)
        ended = (not chunk and size != 0) or size < 0 or self._left <= 0
        if ended and (self._left != 0 or self._read.hexdigest() != self._expected.sha256):
            raise mismatch(self._of, self._expected.path, f"is not the {self._expected.size} bytes of sha256 {self._expected.sha256[:12]}")
        return chunk


def _purged(digest: Digest) -> Transient:
    return Transient(f"weights {digest[:12]} are being deleted", retry_after_s=2.0, hint="wait for the retry, which stores them again")
