"""Where programs of the engine's environment run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from core.engines import EngineProgram


class RunningProgram(AbstractContextManager["RunningProgram"], Protocol):
    """A program that has begun. Leaving its context kills it and waits for its end; its other methods are valid inside the context only.

    A program ends with the process that started it, however that process ends.
    """

    def lines(self) -> Iterator[str]:
        """Yield the lines of its standard output as they are written, with their line ends, until it closes."""
        ...

    def wait(self) -> int:
        """Wait for its end and return its exit code; negative: the signal that ended it, -9 where its end was not reported."""
        ...

    def kill(self) -> None:
        """End it with SIGKILL. Does nothing once it has ended. Any thread may call it, also after the context."""
        ...

    def errors(self) -> str:
        """Return the last 1 MiB of its standard error."""
        ...


class EnginePrograms(Protocol):
    """Starts programs of the engine's environment. Adapters: a process for each, and a fork of the warm process that forks engines."""

    def start(self, program: EngineProgram, arguments: Sequence[str]) -> RunningProgram:
        """Start a program once. Paths in `arguments` are absolute. Raises Fault if it cannot be started."""
        ...
