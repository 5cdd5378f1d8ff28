"""A folder of this machine as a hub."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.errors import NotFound, Refused
from core.ports.hub import Progress
from core.versions import FileDigest, HubFile, ModelRef, ResolvedModel
from registry.files import disk_errors, file_sha256, inside, require_room, scratch_beside
from registry.hub.card import base_models, front_matter, licence


class FolderHub:
    """`Hub` on folders. Folders whose names begin with a dot (`.git`, `.cache`) are not part of a model."""

    def resolve(self, ref: ModelRef) -> ResolvedModel:
        """List the folder. Its commit changes with any path, size or time of change, so nothing is read but names."""
        root = Path(ref.source)
        if not root.is_dir():
            raise NotFound(f"{root} is no folder on this machine", reason="not_found", hint="give the folder that holds config.json")
        with disk_errors(f"listing {root}"):
            found = sorted(_walk(root))
            card = front_matter(root / "README.md")
        listing = "".join(f"{name}\0{size}\0{changed}\n" for name, size, changed in found)
        files = tuple(HubFile(name, size) for name, size, _ in found)
        return ResolvedModel(
            ref, hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(), files, licence(card), base_models(card)
        )

    def download(self, model: ResolvedModel, files: Sequence[HubFile], target: Path, progress: Progress) -> tuple[FileDigest, ...]:
        """Link the files into `target` (copy them from another file system) and hash them."""
        if self.resolve(model.ref).commit != model.commit:
            raise Refused(f"{model}: the folder was changed since it was submitted", reason="source_changed", hint="submit it again")
        root, total, done = Path(model.ref.source), sum(file.size for file in files), 0
        read: list[FileDigest] = []
        with disk_errors(f"bringing {model} into {target}"):
            target.mkdir(parents=True, exist_ok=True)
            if root.stat().st_dev != target.stat().st_dev:
                require_room(target, sum(file.size for file in files if not _present(inside(target, file.path), file.size)), str(model))
        for file in sorted(files, key=lambda file: file.path):
            with disk_errors(f"bringing {model} into {target}"):
                read.append(_bring(inside(root, file.path), inside(target, file.path), file.path))
            done += file.size
            progress(done, total)
        return tuple(read)


def _walk(root: Path) -> Iterator[tuple[str, int, int]]:
    real = root.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*names, *(name for name in folders if (Path(folder) / name).is_symlink())):
            path = Path(folder) / name
            _refuse_leaving(path, real, path.relative_to(root))
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"{path} is no regular file", reason="unsafe_file", hint="remove it, or put its content in its place")
            yield path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns


def _refuse_leaving(path: Path, root: Path, name: Path) -> None:
    if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(root)):
        raise Refused(
            f"{name} is a symbolic link that leads out of {root}",
            reason="symlink_outside",
            hint="put the file itself there (`cp -rL FOLDER COPY`) and submit the copy",
        )


def _present(there: Path, size: int) -> bool:
    return there.is_file() and there.stat().st_size == size


def _bring(source: Path, there: Path, name: str) -> FileDigest:
    real = source.resolve()
    if not (there.is_file() and (there.samefile(real) or _copied(real, there))):
        there.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(there) as scratch:
            try:
                os.link(real, scratch)
            except OSError:  # another file system, or one without links
                shutil.copy2(real, scratch)
            scratch.replace(there)
    return FileDigest(name, there.stat().st_size, file_sha256(there))


def _copied(source: Path, there: Path) -> bool:
    """Whether `there` is a finished copy: a copy takes over size and time of change, and gets its name last."""
    left, right = source.stat(), there.stat()
    return (left.st_size, left.st_mtime_ns) == (right.st_size, right.st_mtime_ns)
