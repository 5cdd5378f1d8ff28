"""Port: whether a suite can be asked."""

from __future__ import annotations

from typing import Protocol

from core.ids import Digest


class Suites(Protocol):
    """Reads suites of problems before anything depends on them."""

    def check(self, name: str, digest: Digest | None = None) -> None:
        """Return if the suite is valid. With `digest`: if its problems are still those of that sha256.

        Refused with the file, the line and the fault (`bad_suite`, `no_humaneval`, `suite_changed`). What only a download brings (a task of
        lm-eval, HumanEval without its package) is not read.
        """
        ...

    def check_gate(self) -> None:
        """Return if the suite of the benchmark gate is valid. Refused as `check`, with the setting's name."""
        ...
