"""Checks suites when they are named, for the control API and `seatrial up`; `serving` does not import `evals`."""

from __future__ import annotations

from core.errors import Refused
from core.ids import Digest
from core.settings import Settings


class ReadSuites:
    """`Suites` that reads the files of this machine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def check(self, name: str, digest: Digest | None = None) -> None:
        """Read the suite, unless only a download brings it. On a cluster the image of the flow runs has the files, not this one."""
        from evals.suite_loader import is_local, load_suite  # noqa: PLC0415 - only this needs it

        elsewhere = bool(self._settings.engines_url) and (name.startswith("/") or bool(self._settings.trials.humaneval))
        if elsewhere or not is_local(name, self._settings.trials):
            return
        load_suite(name, self._settings.trials, digest)

    def check_gate(self) -> None:
        """Read the suite of the gate."""
        self._setting("SEATRIAL_TRIALS_SUITE", self._settings.trials.suite)

    def check_settings(self) -> None:
        """Read the suites that settings name: the gate's and the scheduled benchmark's."""
        self.check_gate()
        self._setting("SEATRIAL_BENCHMARKS_SUITE", self._settings.benchmarks.suite)

    def _setting(self, variable: str, name: str) -> None:
        try:
            self.check(name)
        except Refused as error:
            raise Refused(f"{variable} is {name[:200]!r}: {error.what}", reason=error.reason, hint=error.hint) from error
