"""Bundles in a folder of this machine (or of a file system that several machines share)."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import Fault, NotFound
from core.ids import Digest, Epoch
from core.ports.clock import Clock, SystemClock
from core.ports.weights import Bundle, Leftover
from core.versions import FileDigest
from registry.files import chunks, disk_errors, file_sha256, inside, require_room, scratch_beside, sync_folder, write_atomic
from registry.weights.manifest import (
    BUNDLES,
    OWNER,
    PUBLISHED,
    STAGED,
    WITHDRAWN,
    Entry,
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


class FolderWeights:
    """`WeightsStore` below `root`. Files move in when they lie on the same file system, else they are copied.

    One process at a time changes a bundle (flock, which the kernel releases when its holder dies); readers need no lock.
    """

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self._root = root
        self._clock = clock or SystemClock()

    def stage(self, digest: Digest, source: Path, files: Sequence[FileDigest]) -> Bundle:
        """Take files in. Each is read once; what an earlier attempt brought in already is checked and kept."""
        listed = checked_files(files)
        with self._locked(digest):
            try:
                self._take_back(digest)
                return self.open(digest)
            except (NotFound, Mismatch):
                self._drop_manifests(digest)  # none, or one that its files contradict: the files are brought in again
            folder = self._folder(digest)
            with disk_errors(f"storing weights {digest[:12]}"), self._nothing_kept_of_wrong_files(folder):
                folder.mkdir(parents=True, exist_ok=True)
                _clear(folder, {inside(folder, file.path) for file in listed})
                entries = tuple(Entry(file, _bring(digest, inside(source, file.path), inside(folder, file.path), file)) for file in listed)
                _sync_tree(folder)
                manifest = Manifest(digest, entries, self._clock.now())
                write_atomic(folder / STAGED, manifest.encode())
            return manifest.bundle(folder.as_uri(), published=False)

    def publish(self, digest: Digest) -> Bundle:
        """Rename the manifest: one atomic step."""
        with self._locked(digest):
            bundle = self.open(digest)
            if bundle.published:
                return bundle
            folder = self._folder(digest)
            with disk_errors(f"publishing weights {digest[:12]}"):
                (folder / STAGED).replace(folder / PUBLISHED)
                sync_folder(folder)
            return self.open(digest)

    def open(self, digest: Digest) -> Bundle:
        """Return the bundle after a look at every file. A file that was written since it was stored is hashed again."""
        manifest, published = self._manifest(digest)
        folder = self._folder(digest)
        with disk_errors(f"reading weights {digest[:12]}"):
            for entry in manifest.entries:
                _verify(digest, inside(folder, entry.file.path), entry)
        return manifest.bundle(folder.as_uri(), published=published)

    def list(self) -> tuple[Bundle, ...]:
        """Return every bundle that has a manifest, by digest."""
        with disk_errors(f"listing {self._root}"):
            folder = self._root / BUNDLES
            names = sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
        return tuple(bundle for name in names if is_digest(name) and (bundle := self._glance(Digest(name))))

    def delete(self, digest: Digest) -> None:
        """Remove the manifests, then the files."""
        with self._locked(digest), disk_errors(f"deleting weights {digest[:12]}"):
            self._drop_manifests(digest)
            if self._folder(digest).exists():
                shutil.rmtree(self._folder(digest))

    def withdraw(self, digest: Digest) -> bool:
        """Put the manifest aside."""
        with self._locked(digest):
            try:
                manifest, published = self._manifest(digest)
            except NotFound:
                return False
            with disk_errors(f"withdrawing weights {digest[:12]}"):
                write_atomic(self._folder(digest) / WITHDRAWN, Withdrawn(manifest, published, self._clock.now()).encode())
                self._drop_manifests(digest)
            return True

    def reclaim(self, digest: Digest) -> Bundle:
        """Put the manifest back where it was withdrawn, and open the bundle."""
        with self._locked(digest):
            self._take_back(digest)
            return self.open(digest)

    def leftovers(self) -> tuple[Leftover, ...]:
        """Return the folders without a manifest, by digest."""
        with disk_errors(f"listing {self._root}"):
            folder = self._root / BUNDLES
            names = sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []
            found = [self._leftover(Digest(name)) for name in names if is_digest(name)]
        return tuple(leftover for leftover in found if leftover is not None)

    def claim(self, installation: str, *, take_over: bool = False) -> str:
        """Write the owner's file by a link, which fails where there is one."""
        file = self._root / OWNER
        with disk_errors(f"claiming {self._root}"):
            self._root.mkdir(parents=True, exist_ok=True)
            if take_over:
                write_atomic(file, installation.encode("ascii"))
            elif not file.exists():
                draft = file.with_name(f".{OWNER}-{installation}")
                write_atomic(draft, installation.encode("ascii"))
                with suppress(FileExistsError):
                    os.link(draft, file)
                draft.unlink(missing_ok=True)
            return file.read_text(encoding="ascii").strip()

    def purge(self, digest: Digest, before: Epoch) -> bool:
        """Remove the folder of a leftover, under the lock under which it is taken back."""
        with self._locked(digest), disk_errors(f"deleting weights {digest[:12]}"):
            left = self._leftover(digest)
            if left is None or left.since >= before:
                return False
            shutil.rmtree(self._folder(digest))
            return True

    def _leftover(self, digest: Digest) -> Leftover | None:
        folder = self._folder(digest)
        if (folder / PUBLISHED).exists() or (folder / STAGED).exists() or not folder.is_dir():
            return None
        stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
        size = sum(stat.st_size for stat in stats)
        try:
            since = decode_withdrawn((folder / WITHDRAWN).read_bytes(), str(folder / WITHDRAWN)).at
        except (FileNotFoundError, Mismatch):
            since = max((stat.st_mtime for stat in stats), default=folder.stat().st_mtime)
        return Leftover(digest, since, size)

    def _take_back(self, digest: Digest) -> None:
        """Restore a withdrawn manifest. Does nothing where there is none, or where the bundle was stored again since."""
        hidden = self._folder(digest) / WITHDRAWN
        if not hidden.exists():
            return
        with disk_errors(f"taking back weights {digest[:12]}"):
            if self._leftover(digest) is not None:
                withdrawn = decode_withdrawn(hidden.read_bytes(), str(hidden))
                write_atomic(hidden.with_name(withdrawn.name), withdrawn.manifest.encode())
            hidden.unlink()

    def _folder(self, digest: Digest) -> Path:
        return self._root.absolute() / BUNDLES / checked_digest(digest)

    def _glance(self, digest: Digest) -> Bundle | None:
        try:
            manifest, published = self._manifest(digest)
        except NotFound:
            return None  # half of one, or deleted while we look
        return manifest.bundle(self._folder(digest).as_uri(), published=published)

    def _manifest(self, digest: Digest) -> tuple[Manifest, bool]:
        folder = self._folder(digest)
        for name in (PUBLISHED, STAGED, PUBLISHED):  # twice: it may be published between the first look and the second
            try:
                with disk_errors(f"reading weights {digest[:12]}"):
                    raw = (folder / name).read_bytes()
            except Fault as fault:
                if isinstance(fault.__cause__, FileNotFoundError):
                    continue
                raise
            return decode(raw, str(folder / name)), name == PUBLISHED
        raise missing(digest)

    def _drop_manifests(self, digest: Digest) -> None:
        folder = self._folder(digest)
        if folder.is_dir():
            (folder / PUBLISHED).unlink(missing_ok=True)
            (folder / STAGED).unlink(missing_ok=True)
            sync_folder(folder)

    @contextmanager
    def _locked(self, digest: Digest) -> Iterator[None]:
        folder = self._root / "locks"
        path = folder / f"{checked_digest(digest)[:2]}.lock"  # 256 at most, never removed: removing a lock file is a race
        with disk_errors(f"locking {path}"):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _nothing_kept_of_wrong_files(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except (Fault, OSError):
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _bring(digest: Digest, source: Path, target: Path, expected: FileDigest) -> str:
    """Move or copy one file to its place and return its stamp. Raises Fault when its bytes are not the expected ones."""
    if _is(target, expected):
        return _stamp(target)
    if not source.is_file():
        raise mismatch(digest, expected.path, f"is not in {source.parent}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if _movable(source, target.parent):
        if not _is(source, expected):
            raise mismatch(digest, expected.path, f"is not the {expected.size} bytes of sha256 {expected.sha256[:12]} that were announced")
        _sync_file(source)
        source.replace(target)
    else:
        _copy(digest, source, target, expected)
    return _stamp(target)


def _clear(folder: Path, wanted: Collection[Path]) -> None:
    """Remove what attempts that were cut off left half written."""
    for path in folder.rglob("*"):
        if not path.is_dir() and path not in wanted:
            path.unlink()


def _movable(source: Path, folder: Path) -> bool:
    """Whether a rename does it: one file system, and no second name (a hard link) through which others could write to it."""
    status = source.lstat()
    return not source.is_symlink() and status.st_nlink == 1 and status.st_dev == folder.stat().st_dev


def _copy(digest: Digest, source: Path, target: Path, expected: FileDigest) -> None:
    read, size = hashlib.sha256(), 0
    require_room(target.parent, expected.size, f"storing {expected.path} of weights {digest[:12]}")
    with scratch_beside(target) as scratch:
        with scratch.open("xb") as file:
            for chunk in chunks(source):
                read.update(chunk)
                size += len(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if (size, read.hexdigest()) != (expected.size, expected.sha256):
            raise mismatch(digest, expected.path, f"has {size} bytes of sha256 {read.hexdigest()[:12]}, not what was announced")
        scratch.replace(target)


def _is(path: Path, expected: FileDigest) -> bool:
    return path.is_file() and path.stat().st_size == expected.size and file_sha256(path) == expected.sha256


def _verify(digest: Digest, path: Path, entry: Entry) -> None:
    try:
        size, stamp = path.stat().st_size, _stamp(path)
        if size != entry.file.size:
            raise mismatch(digest, entry.file.path, f"has {size} bytes, its manifest says {entry.file.size}")
        if stamp != entry.stamp and file_sha256(path) != entry.file.sha256:
            raise mismatch(digest, entry.file.path, "was changed after it was stored")
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            raise incomplete(digest, entry.file.path) from error
        raise


def _stamp(path: Path) -> str:
    return str(path.stat().st_mtime_ns)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for name, _folders, _files in os.walk(folder):
        sync_folder(Path(name))
    sync_folder(folder.parent)
