"""Judges a program as plain Python does: the program, its test and the call of `check` are one script, whose exit status is the verdict."""

from __future__ import annotations

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.programs import Program

_AT_ONCE = 2
_WALL_S = 60.0


def passes(program: Program, script: Path) -> bool:
    """Return whether the script ends with status 0, within the program's limits of CPU time and memory."""
    seed = '__import__("random").seed(0)\n'  # the sandbox seeds the checks' random arguments, too
    script.write_text(f"{program.code}\n{program.check}\n{seed}check({program.entry_point})\n", encoding="utf-8")
    cpu_s = int(program.cpu_s)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
        resource.setrlimit(resource.RLIMIT_AS, (program.memory_bytes, program.memory_bytes))

    command = [sys.executable, "-I", "-S", str(script)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_WALL_S, check=False, preexec_fn=limit, cwd=script.parent
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def all_pass(programs: list[Program], folder: Path) -> list[bool]:
    """Judge all, each in a process of its own."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(passes, programs, [folder / f"program-{number}.py" for number in range(len(programs))]))
