"""Work on untrusted files in a child process with limits: an endless template then costs a second, not the platform."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.errors import Fault, Transient

_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}


class End(StrEnum):
    """How the work ended: with an answer, refused by the input, beyond its limits, or dead by a signal (a library's abort)."""

    DONE = "done"
    BROKEN = "broken"
    TOO_LONG = "too_long"
    TOO_MUCH_MEMORY = "too_much_memory"
    DIED = "died"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the child: seconds of CPU time, bytes of address space.

    The child neither sleeps nor waits. If it has not ended `wall_s` seconds after its start, the machine is overloaded, and the input is
    not at fault.
    """

    cpu_s: int = 5
    wall_s: float = 600.0
    memory_bytes: int = 1024**3


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `value` when done, `why` (at most 300 characters) when not."""

    end: End
    value: Any = None
    why: str = ""


def confined(script: Path, question: dict[str, Any], limits: Limits) -> Answer:
    """Run one of our scripts on `question` in a child of its own and return its answer.

    Raises Transient when the machine gives the child less than its CPU time within its wall time or kills it, Fault when it cannot work
    at all.

    The child gets no environment, no shell and no inherited files; its script sets the limits before it reads the question.
    """
    asked = json.dumps(question)
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(script), str(limits.cpu_s), str(limits.memory_bytes)],
            input=asked.encode(),
            capture_output=True,
            timeout=limits.wall_s,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        what = f"{script.name} was given less than {limits.cpu_s} s of CPU time in {limits.wall_s:g} s"
        raise Transient(what, hint="Reduce the load of this machine") from error
    except OSError as error:
        raise Fault(f"no child process for {script.name}: {error.strerror}", hint="look at the machine's limits") from error
    if done.returncode == -signal.SIGXCPU:
        return Answer(End.TOO_LONG)
    if done.returncode == -signal.SIGKILL:  # not by its CPU limit, which sends SIGXCPU
        raise Transient(f"{script.name} was killed (SIGKILL)", hint="Look for a lack of memory in the machine's kernel log")
    if done.returncode < 0:
        return Answer(End.DIED, why=f"signal {-done.returncode}")
    try:
        answer = json.loads(done.stdout)
        return Answer(End(answer["end"]), answer.get("value"), str(answer.get("why", ""))[:300])
    except (ValueError, KeyError, TypeError) as error:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
        raise Fault(f"{script.name} gave no answer (exit status {done.returncode}): {last[:200]}", hint="run seatrial doctor") from error
