"""Tensorization: safetensors to tensorizer's format, by a program of the engine's environment (torch is installed there only)."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.endings import describe
from core.engines import EngineProgram
from core.errors import Fault, Refused, Transient
from core.ids import Digest
from core.ports import EnginePrograms
from core.reasons import Reason
from core.versions import FileDigest

MANIFEST = "tensors.json"
_SOURCE_AT_FAULT = 3


@dataclass(frozen=True, slots=True)
class Tensorized:
    """What the program wrote below `folder`: the files of a bundle, and the digest of their manifest."""

    folder: Path
    files: tuple[FileDigest, ...]
    manifest: Digest


def tensors_digest(files: Sequence[FileDigest]) -> Digest:
    """Return the address of the tensorized form: sha256 over path and sha256 of the safetensors files, so equal weights have one."""
    return _listing_digest([file for file in files if file.path.endswith(".safetensors")])


def version_digest(files: Sequence[FileDigest]) -> Digest:
    """Return the identity of a model version: sha256 over path and sha256 of every file."""
    return _listing_digest(files)


def tensorize(
    source: Path, out: Path, programs: EnginePrograms, *, progress: Callable[[float, str], None], limit_s: float = 3600.0
) -> Tensorized:
    """Write `source`'s safetensors as tensorizer files into `out` (emptied first) and return what was written.

    Raises Refused when the source is at fault, Fault or Transient when this machine is. Nothing is left in `out` then.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    arguments = [str(source.absolute()), str(out.absolute()), "--json-progress"]
    late = threading.Event()
    with programs.start(EngineProgram.TENSORIZE, arguments) as running:

        def stop() -> None:
            late.set()
            running.kill()

        timer = threading.Timer(limit_s, stop)
        timer.start()
        try:
            _follow(running.lines(), progress)
            code = running.wait()
        finally:
            timer.cancel()
        errors = running.errors()
    if code != 0:
        shutil.rmtree(out, ignore_errors=True)
        if late.is_set():
            raise Transient(f"tensorizing took longer than {limit_s:g} s", hint="free the machine's processors and disk, then submit again")
        raise _error(code, errors)
    return _read(out)


def _follow(lines: Iterable[str], progress: Callable[[float, str], None]) -> None:
    for line in lines:
        try:
            news: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue  # a library's own print
        done, total = news.get("bytes", 0), news.get("bytes_total", 0)
        if total:
            progress(done / total, f"{done / 1e6:.1f} of {total / 1e6:.1f} MB")


def _error(code: int, errors: str) -> Refused | Transient | Fault:
    told: dict[str, Any] = {}
    for line in errors.splitlines():
        if line.startswith("{"):
            try:
                told = json.loads(line)
            except json.JSONDecodeError:
                continue
    what = str(told.get("what") or errors.strip()[-300:] or f"the tensorizer ended: {describe(code)}")
    hint = str(told.get("hint") or "")
    if code == _SOURCE_AT_FAULT:
        return Refused(what, reason=Reason.CANNOT_TENSORIZE, hint=hint or "upload whole safetensors and submit again")
    if told.get("error") == Transient.code or code < 0:  # killed from outside: memory or an operator
        return Transient(what, hint=hint or "retried automatically")
    return Fault(what, hint=hint or "see `seatrial logs`")


def _read(out: Path) -> Tensorized:
    text = (out / MANIFEST).read_bytes()
    listed = [FileDigest(item["name"], item["size"], Digest(item["sha256"])) for item in json.loads(text)["files"]]
    manifest = Digest(hashlib.sha256(text).hexdigest())
    return Tensorized(out, (*sorted(listed, key=lambda file: file.path), FileDigest(MANIFEST, len(text), manifest)), manifest)


def _listing_digest(files: Sequence[FileDigest]) -> Digest:
    lines = sorted(f"{file.path}\0{file.sha256}\n" for file in files)
    return Digest(hashlib.sha256("".join(lines).encode()).hexdigest())
