"""`python locked.py UV.LOCK NAME...`: print NAME==VERSION of each package, and of what it needs, that this interpreter lacks.

Versions are the lock's. It runs by itself, with the standard library, inside an image whose own packages (vLLM's, torch's) are to stay.
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


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    lock = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.stdout.write("\n".join(missing({entry["name"]: entry for entry in lock["package"]}, sys.argv[2:])) + "\n")
