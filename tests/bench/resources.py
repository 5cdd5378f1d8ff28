"""What a platform at rest takes: proportional memory and CPU of every process tree."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from tests.e2e.harness import alive, children

_REST_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


def idle_cost(home: Path) -> dict[str, dict[str, float]]:
    """Return PSS in MB (shared pages divided among their users) and CPU in per cent of one core, by service, and their sum."""
    roots = _roots(home)
    trees = {name: tree(pid, frozenset(roots.values())) for name, pid in roots.items()}
    before = {name: sum(_cpu(pid) for pid in pids) for name, pids in trees.items()}
    threading.Event().wait(_REST_S)
    cost = {
        name: {
            "pss_mb": sum(_pss(pid) for pid in pids) / 1e6,
            "cpu_percent": 100 * (sum(_cpu(pid) for pid in pids) - before[name]) / _REST_S,
        }
        for name, pids in trees.items()
    }
    cost["all"] = {key: sum(row[key] for row in cost.values()) for key in ("pss_mb", "cpu_percent")}
    return cost


def _roots(home: Path) -> dict[str, int]:
    services = json.loads((home / "run" / "stack.json").read_text(encoding="utf-8"))["services"]
    roots = {name: int(identity["pid"]) for name, identity in services.items()}
    fork_server = [pid for pid in children(roots["engines"]) if alive(pid)]
    roots |= {"fork server": fork_server[0]} if fork_server else {}
    for number, path in enumerate(sorted(home.glob("engines/*/status.json")), 1):
        roots[f"engine {number}"] = int(json.loads(path.read_text(encoding="utf-8"))["process"]["pid"])
    return roots


def tree(root: int, roots: frozenset[int]) -> list[int]:
    """Return a process and its descendants, but those that are counted by themselves."""
    own = [root]
    for pid in own:
        own += [child for child in children(pid) if child not in roots]
    return own


def _pss(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
