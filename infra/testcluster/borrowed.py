"""Clusters that are not ours: the one of KUBECONFIG, and kind's. `at_hand` says which is taken when nothing was asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import Fault, Refused
from core.settings import base_environ
from infra.testcluster.build import default_cache
from infra.testcluster.state import Home

_NAME = "seatrial"
_LIMIT_S = 600.0
_ASK_S = 10.0


def at_hand(home: Home, environ: Mapping[str, str]) -> str:
    """Return what `up` takes unasked: `existing` where KUBECONFIG names a cluster, `kind` where kind and Docker answer, else `own`.

    A home that has a cluster keeps it, and a kubeconfig of that very home, or one that is gone, names no other.
    """
    if home.state.kind:
        return home.state.kind if home.state.kind in ("existing", "kind") else "own"
    files = [Path(name).absolute() for name in environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    if any(file.exists() and home.folder not in file.parents for file in files):
        return "existing"
    return "kind" if shutil.which("kind") and _answers("docker", "info") else "own"


def _answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=_ASK_S, env=base_environ()).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@dataclass(slots=True)
class Existing:
    """The cluster of a kubeconfig. Nothing is started and nothing is removed; the home remembers which one it is."""

    home: Home
    given: str
    """KUBECONFIG as the environment has it: one file, or several as kubectl merges them."""
    context: str = ""
    server: str = ""

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of our own with that one context."""
        return self.home.folder / "existing.kubeconfig"

    def up(self) -> None:
        """Look whether it answers. Raises Refused without KUBECONFIG, Fault when it does not answer."""
        if not self.given:
            raise Refused(
                "--existing was asked for, but KUBECONFIG is not set", hint="export KUBECONFIG=FILE, or take one of our own: --own"
            )
        kubectl = _program("kubectl", "kubectl reads the kubeconfig")
        self.home.begin("existing")
        flat = [kubectl, "config", "view", "--minify", "--flatten", "--raw", "-o", "json"]
        text = _run([*flat, *(["--context", self.context] if self.context else [])], KUBECONFIG=self.given)
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(text, encoding="utf-8")
        self.server = json.loads(text)["clusters"][0]["cluster"]["server"]
        _run([kubectl, "--kubeconfig", str(self.kubeconfig), "--request-timeout=15s", "get", "--raw", "/readyz"])
        self.home.state.kubeconfig, self.home.state.complete = str(self.kubeconfig), True
        self.home.save()


@dataclass(frozen=True, slots=True)
class Kind:
    """A cluster in Docker by kind, named seatrial."""

    home: Home

    @property
    def kubeconfig(self) -> Path:
        """Its administrator's kubeconfig."""
        return self.home.folder / "kind.kubeconfig"

    def up(self) -> None:
        """Create it unless it is there. Raises Fault with kind's words."""
        kind = _program("kind", "--kind was asked for")
        self.home.begin("kind")
        if _NAME not in _run([kind, "get", "clusters"]).split():
            _run([kind, "create", "cluster", "--name", _NAME, "--wait", "120s"])
        _run([kind, "export", "kubeconfig", "--name", _NAME, "--kubeconfig", str(self.kubeconfig)])
        self.home.state.kubeconfig, self.home.state.complete = str(self.kubeconfig), True
        self.home.save()

    def down(self) -> None:
        """Delete it."""
        _run([_program("kind", "the cluster was made with it"), "delete", "cluster", "--name", _NAME])
        self.home.forget()

    def load_image(self, tar: Path) -> None:
        """Put an archive's images on its nodes."""
        _run([_program("kind", "the cluster was made with it"), "load", "image-archive", str(tar), "--name", _NAME])


def _program(name: str, why: str) -> str:
    built = default_cache() / name
    found = shutil.which(name) or (str(built) if built.exists() else None)
    if found is None:
        raise Fault(
            f"{name} is not on the PATH; {why}",
            hint=f"install {name} (kubectl also by: python -m infra.testcluster build kubernetes), or take one of our own: --own",
        )
    return found


def _run(command: list[str], **environ: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S, env={**base_environ(), **environ})
    if done.returncode:
        raise Fault(f"{Path(command[0]).name} failed: {done.stderr.strip()[-500:]}", hint="correct the cause and try again")
    return done.stdout
