"""A folder of this machine as a hub."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from core.errors import NotFound, Refused
from core.ids import Digest
from core.model_card import base_models, licence
from core.ports.hub import Progress
from core.reasons import Reason
from core.versions import FileDigest, HubFile, ModelRef, ResolvedModel
from registry.files import chunks, disk_errors, inside, require_room, scratch_beside
from registry.hub.card import front_matter


class FolderHub:
    """`Hub` on folders. What begins with a dot (`.git`, `.cache`, `.env`) is not part of a model."""

    def resolve(self, ref: ModelRef) -> ResolvedModel:
        """List the folder. Its commit changes with any path, size or time of change, so nothing is read but names."""
        root = Path(ref.source)
        if not root.is_dir():
            raise NotFound(
                f"{root} is not a folder on this machine", reason=Reason.NOT_FOUND, hint="Give the folder that contains config.json"
            )
        with disk_errors(f"listing {root}"):
            found = sorted(_walk(root))
            card = front_matter(root / "README.md")
        listing = "".join(f"{name}\0{size}\0{changed}\n" for name, size, changed in found)
        files = tuple(HubFile(name, size) for name, size, _ in found)
        return ResolvedModel(
            ref, hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(), files, licence(card), base_models(card)
        )

    def download(self, model: ResolvedModel, files: Sequence[HubFile], target: Path, progress: Progress) -> tuple[FileDigest, ...]:
        """Copy the files into `target` and hash what was copied. Copies, not links: training code saves into the same file again."""
        self._refuse_changed(model)
        what = f"bringing {model} into {target}"
        root, total, done = Path(model.ref.source), sum(file.size for file in files), 0
        with disk_errors(what):
            target.mkdir(parents=True, exist_ok=True)
            require_room(target, sum(file.size for file in files if not _present(inside(target, file.path), file.size)), str(model))
        read: list[FileDigest] = []
        for file in sorted(files, key=lambda file: file.path):
            if not inside(root, file.path).is_file():
                raise _changed(model)
            with closing(_bring(inside(root, file.path), inside(target, file.path), file.path, what)) as steps:
                for step in steps:
                    if isinstance(step, FileDigest):
                        read.append(step)
                    else:
                        done += step
                    progress(done, total)  # outside of `_bring`: what it raises is its own
        self._refuse_changed(model)
        return tuple(read)

    def _refuse_changed(self, model: ResolvedModel) -> None:
        if self.resolve(model.ref).commit != model.commit:
            raise _changed(model)


def _changed(model: ResolvedModel) -> Refused:
    return Refused(f"{model}: the folder was changed since it was submitted", reason=Reason.SOURCE_CHANGED, hint="Submit it again")


def _walk(root: Path) -> Iterator[tuple[str, int, int]]:
    real = root.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (name for name in names if not name.startswith("."))
        for name in (*shown, *(name for name in folders if (Path(folder) / name).is_symlink())):
            path = Path(folder) / name
            inside(root, path.relative_to(root).as_posix())
            _refuse_leaving(path, real, path.relative_to(root))
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"{path} is not a regular file", reason=Reason.UNSAFE_FILE, hint="Remove it or replace it by a regular file")
            yield path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns


def _refuse_leaving(path: Path, root: Path, name: Path) -> None:
    if not path.is_symlink():
        return
    if not Path(os.path.realpath(path)).is_relative_to(root):  # not Path.resolve: it raises for a link to itself
        raise Refused(
            f"{name} is a symbolic link to a place outside of {root}",
            reason=Reason.SYMLINK_OUTSIDE,
            hint="Replace it by the file itself (`cp -rL FOLDER COPY`) and submit the copy",
        )
    if not path.exists():
        raise Refused(
            f"{name} is a symbolic link that leads to no file",
            reason=Reason.SYMLINK_BROKEN,
            hint="Replace it by the file itself, or remove it, and submit again",
        )


def _present(there: Path, size: int) -> bool:
    return there.is_file() and there.stat().st_size == size


def _bring(source: Path, there: Path, name: str, what: str) -> Generator[int | FileDigest]:
    """Yield how many bytes were read, step by step, then the digest of what stands at `there`."""
    digest = hashlib.sha256()
    with disk_errors(what):
        status = source.stat()
        if _copied(status, there):
            for chunk in chunks(there):
                digest.update(chunk)
                yield len(chunk)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            with scratch_beside(there) as scratch:
                with scratch.open("xb") as out:
                    for chunk in chunks(source):
                        out.write(chunk)
                        digest.update(chunk)
                        yield len(chunk)
                os.utime(scratch, ns=(status.st_atime_ns, status.st_mtime_ns))
                scratch.replace(there)
        yield FileDigest(name, there.stat().st_size, Digest(digest.hexdigest()))


def _copied(source: os.stat_result, there: Path) -> bool:
    """Whether `there` is a finished copy: a copy takes over size and time of change, and gets its name last."""
    if not there.is_file():
        return False
    copy = there.stat()
    return (source.st_size, source.st_mtime_ns) == (copy.st_size, copy.st_mtime_ns)
