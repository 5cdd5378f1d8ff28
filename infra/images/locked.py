"""Which packages of our lock go into an image that keeps its own packages (vLLM's, torch's).

Run it in that image; it needs only the standard library.

`python locked.py UV.LOCK missing NAME...` prints NAME==VERSION of each package, and of its dependencies, that this interpreter lacks;
`builders` prints what our own packages are built with; `same INSTALLED=LOCKED` fails where a package has another version than the lock's.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def missing(packages: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> Iterator[str]:
    """Yield NAME==VERSION of what is not installed, each once; what is there is kept in whatever version, and so is what it needs."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        if _installed(name):
            continue
        entry = packages[name]
        yield f"{name}=={entry['version']}"
        waiting += [needed["name"] for needed in entry.get("dependencies", ()) if "win32" not in needed.get("marker", "")]


def builders(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield NAME==VERSION of what the lock lets build our packages."""
    for entry in manifest["build-constraints"]:
        yield f"{entry['name']}{entry['specifier']}"


def differing(packages: Mapping[str, Mapping[str, Any]], pairs: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each INSTALLED=LOCKED whose versions differ; what follows a plus (how it was compiled) is not compared."""
    for pair in pairs:
        ours, _, locked = pair.partition("=")
        wanted = str(packages[locked]["version"]).partition("+")[0]
        found = _installed(ours).partition("+")[0]
        if found != wanted:
            yield f"{ours} of this base is {found or 'not there'}, the lock's {locked} is {wanted}: give a base of {wanted}"


def _installed(name: str) -> str:
    """Return the version that this interpreter has; empty if none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    lock = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    what, words = sys.argv[2], sys.argv[3:]
    by_name = {entry["name"]: entry for entry in lock["package"]}
    if what == "same" and (wrong := "\n".join(differing(by_name, words))):
        sys.exit(wrong)
    found = {"missing": missing(by_name, words), "builders": builders(lock["manifest"]), "same": iter(())}[what]
    sys.stdout.write("".join(f"{line}\n" for line in found))
