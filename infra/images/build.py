"""Building an image with docker, podman or buildah. No registry's name stands in the files: bases are arguments."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from core.errors import Fault, Refused
from core.ports.clock import Clock, SystemClock
from core.reasons import Reason
from core.settings import base_environ

ROOT = Path(__file__).resolve().parents[2]
_HERE = Path(__file__).parent
DOCKERFILES: Final[Mapping[str, str]] = {
    "platform": "platform.Dockerfile",
    "worker": "platform.Dockerfile",
    "engine": "engine.Dockerfile",
    "engine-cpu": "engine-cpu.Dockerfile",
    "prefect-worker": "prefect-worker.Dockerfile",
}
VALUES: Final[Mapping[str, str]] = {
    "platform": "images.platform",
    "worker": "images.worker",
    "engine": "images.engine",
    "engine-cpu": "images.engine",
    "prefect-worker": "worker.image",
}
"""The chart's value that each is for."""
_SUITE = "bookworm"
_PACKAGES: Final[Mapping[str, str]] = {
    "platform": "python3,ca-certificates",
    "engine-cpu": "python3,ca-certificates,libgomp1,libnuma1",
}
"""What each needs of Debian: vLLM's CPU kernels libgomp and libnuma."""


_REGISTRY = "docker://"


@dataclass(frozen=True, slots=True)
class Build:
    """What to build. `base` is an image name, by digest for what is shipped; `push` a transport and name, or nothing.

    `root` is the checkout that it is built from; `fresh` uses nothing of an earlier build.
    """

    image: str
    base: str
    tag: str
    push: str = ""
    root: Path = ROOT
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """The result: its id (the digest of its configuration, the same wherever it lies), its size on disk and how long it took.

    `reference` is NAME@sha256:..., as the registry has it that it was pushed to; empty if to none: a manifest's digest is the registry's.
    """

    tag: str
    id: str
    bytes: int
    seconds: float
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Builder:
    """A builder of this machine and the environment that it needs."""

    program: str
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """docker, podman or buildah."""
        return Path(self.program).name

    @property
    def is_buildah(self) -> bool:
        """Whether it is buildah, which builds without a daemon and without privileges of a container engine."""
        return self.name == "buildah"

    def run(self, *arguments: str, cwd: Path = ROOT) -> str:
        """Run it and return what it printed. Raises Fault with its last words."""
        done = subprocess.run(
            [self.program, *arguments], cwd=cwd, env={**base_environ(), **self.environ}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Fault(f"{self.name} {arguments[0]}: {done.stderr.strip()[-1500:]}", hint="its whole output tells which step")
        return done.stdout


def builder() -> Builder:
    """Return the first of docker, podman and buildah that is here. Raises Fault."""
    for name in ("docker", "podman"):
        program = shutil.which(name)
        if program and subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0:  # a client may have no engine
            return Builder(program)
    if program := shutil.which("buildah"):
        return Builder(program, {"BUILDAH_ISOLATION": "chroot"})
    raise Fault("there is no docker, podman or buildah", hint="install one: `apt-get install buildah` suffices")


def build(what: Build, *, with_: Builder | None = None, clock: Clock | None = None) -> Built:
    """Build. File times are the commit's, so that one commit gives one image. Raises Refused (no base), Fault (it does not build)."""
    if not what.base:
        raise Refused(f"{what.image} needs a base image", reason=Reason.NO_BASE, hint="give --base NAME@sha256:..., or --debootstrap")
    tool, time = with_ or builder(), clock or SystemClock()
    began = time.monotonic()
    tool.run(*command(tool, what), cwd=what.root)
    identity, size = _facts(tool, what.tag)
    reference = push(tool, what.tag, what.push) if what.push else ""
    return Built(what.tag, identity, size, time.monotonic() - began, reference)


def command(tool: Builder, what: Build) -> list[str]:
    """Return the words after the builder's name. What enters the context says FILE.dockerignore: docker finds it, the others are told."""
    file, moment = what.root / "infra/images" / DOCKERFILES[what.image], str(commit_time(what.root))
    words = ["--file", str(file), "--tag", what.tag, "--build-arg", f"BASE={what.base}", *(["--no-cache"] if what.fresh else [])]
    if tool.name == "docker":  # by the name of buildx: where it lacks, `docker build` is an older one that takes the whole checkout
        return ["buildx", "build", "--load", "--provenance=false", "--build-arg", f"SOURCE_DATE_EPOCH={moment}", *words, "."]
    words += ["--layers", "--pull=missing", "--timestamp", moment, "--ignorefile", f"{file}.dockerignore"]
    return ["build", *words, *(_mounted() if tool.is_buildah else []), "."]


def push(tool: Builder, tag: str, to: str) -> str:
    """Push `tag` and return NAME@sha256:... as the registry has it; empty when `to` is not a registry. Raises Refused, Fault."""
    name = to.removeprefix(_REGISTRY)
    if tool.name == "docker":
        digest = _docker_push(tool, tag, to)
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "digest"
            tool.run("push", "--digestfile", str(file), tag, to)
            digest = file.read_text(encoding="utf-8").strip()
    return f"{_untagged(name)}@{digest}" if to.startswith(_REGISTRY) else ""


def _docker_push(tool: Builder, tag: str, to: str) -> str:
    transport, _, place = to.partition(":")
    if transport == "docker-archive":
        tool.run("save", "--output", place, tag)
        return ""
    if transport != "docker":
        raise Refused(
            f"docker pushes nothing to {to}", reason=Reason.NO_SUCH_TRANSPORT, hint="give --to docker://NAME or docker-archive:FILE.tar"
        )
    name = to.removeprefix(_REGISTRY)
    tool.run("tag", tag, name)
    said = tool.run("push", name)
    if found := re.search(r"digest: (sha256:[0-9a-f]{64})", said):
        return found.group(1)
    raise Fault(f"docker pushed {name} and named no digest: {said.strip()[-300:]}", hint="look it up in the registry")


def _untagged(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return f"{folder}{slash}{last.partition(':')[0]}"


def commit_time(root: Path = ROOT) -> int:
    """Return the time of the checkout's commit, in seconds since 1970; 0 where there is none."""
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=root, capture_output=True, text=True, check=False)  # noqa: S607
    return int(done.stdout.strip() or 0)


def bootstrap_base(image: str = "platform", tool: Builder | None = None, *, root: Path | None = None) -> str:
    """Make a base for `image` from Debian's packages and return its name; one that is there is kept.

    Needs root, debootstrap and buildah; raises Fault without them, Refused for an image that stands on another of ours.
    """
    if image in {"worker", "engine"}:
        raise Refused(f"{image} stands on an image", reason=Reason.NO_BASE, hint="give --base: the engine's image, or vLLM's own")
    tool = tool or builder()
    kind = image if image in _PACKAGES else "platform"
    tag = (
        f"localhost/seatrial-base:{_SUITE}-{kind}-{hashlib.sha256(_PACKAGES[kind].encode()).hexdigest()[:8]}"  # other packages, other base
    )
    if tool.is_buildah and tag in tool.run("images", "--format", "{{.Name}}:{{.Tag}}"):
        return tag
    program = shutil.which("debootstrap") or shutil.which("debootstrap", path="/usr/sbin")
    if program is None or os.geteuid() != 0 or not tool.is_buildah:
        raise Fault("a base from packages needs root, debootstrap and buildah", hint="or give --base an image")
    folder = root or Path("/var/tmp/seatrial-base")  # noqa: S108 - root's own, replaced below
    shutil.rmtree(folder, ignore_errors=True)
    command = [program, "--variant=minbase", f"--include={_PACKAGES[kind]}", _SUITE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Fault(f"debootstrap: {done.stdout.strip()[-600:]}", hint="is Debian's archive within reach?")
    _slim(folder)
    _commit_base(tool, folder, tag)
    shutil.rmtree(folder, ignore_errors=True)
    return tag


def _commit_base(tool: Builder, folder: Path, tag: str) -> None:
    container = tool.run("from", "scratch").strip()
    tool.run("add", container, f"{folder}/", "/")
    tool.run("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    tool.run("commit", "--rm", "--timestamp", "0", container, tag)


def _slim(folder: Path) -> None:
    for waste in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(folder / waste, ignore_errors=True)
        (folder / waste).mkdir(parents=True, exist_ok=True)


def _mounted() -> list[str]:
    """Return what buildah lends to the steps that run: this machine's uv and its cache, and its certificates. None of it is kept."""
    volumes, arguments = list[str](), list[str]()
    uv = subprocess.run([str(ROOT / "infra/bin/find-uv")], capture_output=True, text=True, check=False).stdout.strip()
    if uv:
        volumes.append(f"{Path(uv).resolve().parent}:/uv:ro")
        cache = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=False).stdout.strip()
        if cache and Path(cache).is_dir():
            volumes.append(f"{cache}:/root/.cache/uv")
            arguments = ["--build-arg", "UV_NO_CACHE=false"]
    if Path("/etc/ssl/certs").is_dir():
        volumes.append("/etc/ssl/certs:/etc/ssl/certs:ro")
    return [*arguments, *(part for volume in volumes for part in ("--volume", volume))]


def _facts(tool: Builder, tag: str) -> tuple[str, int]:
    if tool.is_buildah:
        listed = json.loads(tool.run("images", "--no-trunc", "--json", tag))[0]
        return f"sha256:{str(listed['id']).removeprefix('sha256:')}", _bytes(str(listed["size"]))
    inspected = json.loads(tool.run("image", "inspect", tag))[0]
    return f"sha256:{str(inspected['Id']).removeprefix('sha256:')}", int(inspected["Size"])


def _bytes(shown: str) -> int:
    number, _, unit = shown.partition(" ")
    return int(float(number) * {"KB": 1e3, "MB": 1e6, "GB": 1e9}.get(unit, 1))
