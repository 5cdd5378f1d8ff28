"""Commands as another user of the machine, which may read the checkout and the interpreters and nothing else of ours.

Where a folder above them is closed to others (an interpreter below /root), the command gets a mount namespace of its own in which that
folder shows only them. Nothing is changed outside it.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "nobody"


def needed(root: Path) -> tuple[Path, ...]:
    """Return the checkout and the interpreters' installations: what a user needs to run seatrial."""
    engine = root / "serving/engines/vllm/.venv/bin/python"
    interpreters = [Path(sys.base_prefix), *([engine.resolve().parents[1]] if engine.exists() else [])]
    return tuple(dict.fromkeys((root, *interpreters)))


def as_other_user(paths: Iterable[Path], environ: dict[str, str]) -> tuple[str, ...]:
    """Return the words to put before a command so that it runs as USER with exactly this environment; `paths` are what it may see."""
    who = pwd.getpwnam(USER)
    drop = ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--clear-groups", "--inh-caps=-all", "--"]
    given = ["env", "-i", *(f"{name}={value}" for name, value in environ.items())]
    script = "\n".join(["set -e", *_open_up(list(paths)), f'exec {shlex.join(drop)} {shlex.join(given)} "$@"'])
    return ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", script, "as-other-user")


def _open_up(paths: list[Path]) -> Iterator[str]:
    """Yield shell commands that show each path below closed folders, and nothing else of those folders."""
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        above = next((folder for folder in reversed(path.parents) if not _passable(folder)), None)
        if above is not None:
            closed.setdefault(above, []).append(path)
    if not closed:
        return
    stage = shlex.quote("/mnt")
    yield f"mount -t tmpfs -o mode=0755 tmpfs {stage}"
    for number, path in enumerate(path for below in closed.values() for path in below):
        yield f"mkdir {stage}/{number}; mount --rbind {shlex.quote(str(path))} {stage}/{number}"
    number = 0
    for above, below in closed.items():
        yield f"mount -t tmpfs -o mode=0755 tmpfs {shlex.quote(str(above))}"
        for path in below:
            yield f"mkdir -p {shlex.quote(str(path))}; mount --move {stage}/{number} {shlex.quote(str(path))}"
            number += 1


def _passable(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


@contextmanager
def folder_of_other_user() -> Iterator[Path]:
    """Yield a folder that belongs to USER at a path that it may pass through; removed at the end."""
    who = pwd.getpwnam(USER)
    folder = Path(tempfile.mkdtemp(prefix="seatrial-other-", dir="/tmp"))
    os.chown(folder, who.pw_uid, who.pw_gid)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
