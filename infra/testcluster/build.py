"""The cluster's programs, each built once from its Go module and kept in a cache by version.

The modules are pinned by `modules/<piece>/go.mod` and `go.sum`. A piece's folder in the cache carries a digest of both, so a new
version is built beside the old one; a build that was interrupted leaves nothing that could be mistaken for a whole one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import Fault
from core.settings import base_environ

MODULES = Path(__file__).parent / "modules"
_USUAL_GO = Path("/usr/local/go/bin/go")
_LIMIT_S = 3600.0
_VERSION = "k8s.io/component-base/version"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """One Go module and what is built of it. `programs` maps package paths to names; `extra` are folders of the module to keep."""

    name: str
    module: str
    programs: Mapping[str, str]
    stamps: Callable[[str], str] = field(default=lambda _version: "")
    """From the version to linker flags that make the program tell it."""
    extra: tuple[str, ...] = ()


def _kubernetes_stamps(version: str) -> str:
    major, minor, _patch = version.removeprefix("v").split(".")
    return f"-X {_VERSION}.gitVersion={version} -X {_VERSION}.gitMajor={major} -X {_VERSION}.gitMinor={minor}"


_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")

PIECES: Mapping[str, Piece] = {
    piece.name: piece
    for piece in (
        Piece("etcd", "go.etcd.io/etcd/server/v3", {"go.etcd.io/etcd/server/v3": "etcd"}),
        Piece(
            "kubernetes", "k8s.io/kubernetes", {f"k8s.io/kubernetes/cmd/{name}": name for name in _KUBERNETES}, stamps=_kubernetes_stamps
        ),
        Piece("coredns", "github.com/coredns/coredns", {"github.com/coredns/coredns": "coredns"}),
        Piece("kwok", "sigs.k8s.io/kwok", {"sigs.k8s.io/kwok/cmd/kwok": "kwok"}),
        Piece(
            "keda",
            "github.com/kedacore/keda/v2",
            {"github.com/kedacore/keda/v2/cmd/operator": "keda-operator", "github.com/kedacore/keda/v2/cmd/adapter": "keda-adapter"},
            extra=("config/crd/bases",),
        ),
        Piece("metrics-server", "sigs.k8s.io/metrics-server", {"sigs.k8s.io/metrics-server/cmd/metrics-server": "metrics-server"}),
        Piece("helm", "helm.sh/helm/v3", {"helm.sh/helm/v3/cmd/helm": "helm"}),
    )
}


@dataclass(frozen=True, slots=True)
class Built:
    """Where a piece lies. `seconds` is 0 for one that was in the cache."""

    piece: str
    version: str
    folder: Path
    seconds: float


def default_cache() -> Path:
    """Return the folder of binaries below the user's cache directory (XDG)."""
    environ = base_environ()
    cache = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache"
    return Path(cache) / "seatrial/cluster/bin"


def version_of(piece: Piece) -> str:
    """Return the version that the piece's go.mod pins."""
    text = (MODULES / piece.name / "go.mod").read_text(encoding="utf-8")
    found = re.search(rf"^\s*(?:require )?{re.escape(piece.module)} (v\S+)", text, re.MULTILINE)
    if found is None:
        raise Fault(f"{MODULES / piece.name}/go.mod does not require {piece.module}", hint="restore it from the repository")
    return found[1]


def folder_of(piece: Piece, cache: Path) -> Path:
    """Return where the piece lies, or will."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((MODULES / piece.name / name).read_bytes())
    return cache / f"{piece.name}-{version_of(piece)}-{digest.hexdigest()[:8]}"


def build(name: str, cache: Path, say: Say) -> Built:
    """Return a piece, built now unless the cache has it. Two that build at once wait for one another. Raises Fault."""
    piece = PIECES[name]
    folder, version = folder_of(piece, cache), version_of(piece)
    if folder.exists():
        return Built(name, version, folder, 0.0)
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / f".{name}.lock"):
        if folder.exists():
            return Built(name, version, folder, 0.0)
        say(f"building {name} {version} from its Go module (once; kept in {cache})")
        began = time.monotonic()
        _build_into(piece, version, folder)
        return Built(name, version, folder, time.monotonic() - began)


def _build_into(piece: Piece, version: str, folder: Path) -> None:
    go = _go()
    staging = Path(tempfile.mkdtemp(prefix=f".{piece.name}-", dir=folder.parent))
    try:
        flags = f"-s -w {piece.stamps(version)}".strip()
        # One call for all of them: while one is linked, which takes one core, the next is compiled.
        _run([go, "build", "-mod=readonly", "-trimpath", f"-ldflags={flags}", "-o", f"{staging}/", *piece.programs], piece)
        for package, program in piece.programs.items():
            (staging / _gos_name(package)).rename(staging / program)
        source = Path(_run([go, "list", "-m", "-f", "{{.Dir}}", piece.module], piece)) if piece.extra else Path()
        for extra in piece.extra:
            shutil.copytree(source / extra, staging / extra)
        staging.chmod(0o755)
        staging.rename(folder)
        for program in piece.programs.values():
            _link(folder.parent / program, folder / program)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _gos_name(package: str) -> str:
    """Return the name that `go build` gives to a package's program: the last path element that is not a major version."""
    return next(element for element in reversed(package.split("/")) if not re.fullmatch(r"v[0-9]+", element))


def _link(name: Path, target: Path) -> None:
    """Make the cache itself a folder for the PATH: `helm` and `kubectl` there are those built last."""
    fresh = name.with_name(f".{name.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.relative_to(name.parent))
    fresh.replace(name)


def _go() -> str:
    found = shutil.which("go") or (str(_USUAL_GO) if _USUAL_GO.exists() else None)
    if found is None:
        raise Fault(
            "the Go toolchain is not on this machine, and the cluster's programs are built from their Go modules",
            hint=f"install Go 1.26+ ({_USUAL_GO} or on the PATH), or use your own cluster: python -m infra.testcluster up --existing",
        )
    return found


def _run(command: list[str], piece: Piece) -> str:
    environ = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", **base_environ()}
    try:
        done = subprocess.run(command, cwd=MODULES / piece.name, env=environ, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Fault(
            f"building {piece.name} took longer than {_LIMIT_S:.0f} s", hint="see what holds the machine, then try again"
        ) from error
    if done.returncode:
        raise Fault(
            f"{piece.name} cannot be built: {done.stderr.strip()[-800:]}",
            hint="look whether the Go module proxy answers and whether there is room on the disk (the build wants about 6 GB)",
        )
    return done.stdout.strip()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
