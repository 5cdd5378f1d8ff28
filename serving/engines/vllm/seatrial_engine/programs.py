"""The programs of this environment that the platform runs: `python -m seatrial_engine.programs PARENT_PID NAME ARGUMENTS...`.

The fork server runs the same programs in a process that it forks. Only the names of `PROGRAMS` run. A program ends with the process
that started it, however that process ends.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Final

from seatrial_engine.parent_death import end_with_parent

PROGRAMS: Final = {
    "tensorize": "seatrial_engine.tensorize",
    "reference": "seatrial_engine.reference",
}
"""The module of each program. Its `main(arguments)` returns the exit code."""


def modules() -> tuple[str, ...]:
    """Return the modules of `PROGRAMS` that this release has."""
    return tuple(module for module in PROGRAMS.values() if importlib.util.find_spec(module) is not None)


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a program in this process and return its exit code. Raises KeyError for a name that `PROGRAMS` does not have."""
    code = importlib.import_module(PROGRAMS[name]).main(list(arguments))
    return int(code or 0)


def main(arguments: Sequence[str]) -> int:
    """Run the named program as a child that ends with its parent; return its exit code."""
    parent, name, *rest = arguments
    end_with_parent(int(parent))
    return run(name, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
