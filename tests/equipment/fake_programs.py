"""Small programs in place of the engine environment's, run by its own code: `seatrial_engine` must be on the path, and needs no torch.

`python -m tests.equipment.fake_programs PARENT_PID NAME VERB...` or `python -m tests.equipment.fake_programs --fork-server SOCKET`.
An engine that this fork server forks does nothing until it is killed.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

_ENDS = ("fail", "raise", "die")


def main(arguments: list[str]) -> int:
    """Do what the first argument says; return the exit code. The programs' table has this module under every name."""
    verb, *rest = arguments
    if verb in _ENDS:
        return _end(verb, rest)
    match verb:
        case "say":
            sys.stdout.write("".join(f"{word}\n" for word in rest))
        case "length":
            sys.stdout.write(f"{[len(word) for word in rest]}\n")
        case "input":
            sys.stdout.write(f"{sys.stdin.read()!r}\n")
        case "append":
            with Path(rest[0]).open("a") as file:
                file.write("ran\n")
        case "wait":
            sys.stdout.write(f"{os.getpid()}\n")
            sys.stdout.flush()
            signal.pause()
    return 0


def _end(verb: str, rest: list[str]) -> int:
    match verb:
        case "fail":
            sys.stderr.write("x" * int(rest[1]) + "\n" + rest[2] + "\n")
            return int(rest[0])
        case "raise":
            raise RuntimeError(*rest)
        case _:
            os.kill(os.getpid(), signal.SIGKILL)
    return 0


def _start(arguments: list[str]) -> None:
    programs = importlib.import_module("seatrial_engine.programs")  # not in the platform's environment
    programs.PROGRAMS.update(dict.fromkeys(programs.PROGRAMS, "tests.equipment.fake_programs"))
    if arguments[:1] == ["--fork-server"]:
        importlib.import_module("seatrial_engine.fork_server").serve_forks(arguments[1])
        signal.pause()
    sys.exit(programs.main(arguments))


if __name__ == "__main__":
    _start(sys.argv[1:])
