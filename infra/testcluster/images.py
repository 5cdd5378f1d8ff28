"""Container images without a registry and without a builder: a tar of one layer, written here, reproducible to the byte."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import Fault

_HELP = "install a static busybox (infra/bin/install-cluster-equipment)"


@dataclass(frozen=True, slots=True)
class File:
    """A file of the image, from bytes or from a file of this machine."""

    path: str
    content: bytes | Path
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder; with `source`, all that is below that folder of this machine (a root file system, an environment)."""

    path: str
    source: Path | None = None
    mode: int = 0o755


Content = File | Link | Folder


@dataclass(frozen=True, slots=True)
class Settings:
    """How the image's program is started. `user` is "uid:gid"."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    user: str = "65532:65532"
    folder: str = "/"


def make_image(tar: Path, name: str, contents: Iterable[Content], settings: Settings | None = None) -> Path:
    """Write a docker archive of one layer and return its path. The same contents give the same bytes, so the same digest."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    layer = tar.with_suffix(".layer")
    try:
        with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as archive:
            for content in contents:
                _add(archive, content)
        digest = _sha256(layer)
        config = _bytes(_config(settings or Settings(), digest))
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = _bytes([{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}])
        unfinished = tar.with_suffix(".new")
        with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as archive:
            _add(archive, File(config_name, config))
            _add(archive, File("manifest.json", manifest))
            _add(archive, File(f"{digest}/layer.tar", layer))
        unfinished.rename(tar)
    finally:
        layer.unlink(missing_ok=True)
    return tar


def busybox() -> list[Content]:
    """Return a root file system of one static program: shell, httpd, wget, nslookup and the rest of busybox, and places to mount on."""
    program = shutil.which("busybox")
    if program is None:
        raise Fault("busybox is not on this machine; test images are made of it", hint=_HELP)
    listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True, timeout=30).stdout.split()
    folders = ("bin", "etc", "tmp", "usr", "lib", "lib64", "dev", "proc", "sys", "run", "var", "opt", "home", "root", "mnt")
    return [
        *(Folder(name, mode=0o1777 if name == "tmp" else 0o755) for name in folders),
        File("bin/busybox", Path(program), 0o755),
        *(Link(f"bin/{name}", "busybox") for name in sorted(listed) if name != "busybox"),
        File("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/home:/bin/sh\n"),
        File("etc/group", b"root:x:0:\nnonroot:x:65532:\n"),
    ]


def busybox_image(tar: Path, name: str, *, command: Sequence[str] = ("sh",)) -> Path:
    """Write an image of busybox alone, some 2 MB."""
    return make_image(tar, name, busybox(), Settings(command=command, environ={"PATH": "/bin:/usr/bin"}))


def _config(settings: Settings, layer: str) -> Mapping[str, Any]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": list(settings.entrypoint) or None,
            "Cmd": list(settings.command) or None,
            "Env": [f"{key}={value}" for key, value in settings.environ.items()],
            "User": settings.user,
            "WorkingDir": settings.folder,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "seatrial"}],
    }


def _add(archive: tarfile.TarFile, content: Content) -> None:
    entry = tarfile.TarInfo(content.path.strip("/"))
    match content:
        case File(content=bytes() as data, mode=mode):
            entry.mode, entry.size = mode, len(data)
            archive.addfile(entry, io.BytesIO(data))
        case File(content=Path() as source, mode=mode):
            entry.mode, entry.size = mode, source.stat().st_size
            with source.open("rb") as file:
                archive.addfile(entry, file)
        case Link(target=target):
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
        case Folder(source=source, mode=mode):
            if entry.name:
                entry.type, entry.mode = tarfile.DIRTYPE, mode
                archive.addfile(entry)
            if source is not None:
                _add_below(archive, entry.name, source)


def _add_below(archive: tarfile.TarFile, prefix: str, source: Path) -> None:
    for path in sorted(source.rglob("*")):
        name = f"{prefix}/{path.relative_to(source)}"
        if path.is_symlink():
            _add(archive, Link(name, str(path.readlink())))
        elif path.is_dir():
            _add(archive, Folder(name))
        elif path.is_file():
            _add(archive, File(name, path, path.stat().st_mode & 0o777))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
