"""What an examination comes to."""

from __future__ import annotations

from dataclasses import dataclass

from core.ids import Digest
from core.reasons import Reason
from core.versions import EngineNeeds, Finding
from evals.text import storable

_MOST_CHARS = 800


@dataclass(frozen=True, slots=True)
class Examination:
    """The findings of every check in their order, and what the engine and the version's record need to know.

    `needs` is None when the configuration or the weights could not be read, `licence` when none is stated; both only beside a failure.
    """

    findings: tuple[Finding, ...]
    needs: EngineNeeds | None
    chat_template: Digest | None
    licence: str | None

    @property
    def passed(self) -> bool:
        """Whether nothing was found against it."""
        return all(finding.passed for finding in self.findings)


class NotCheckable(Exception):
    """Raised inside a check that cannot work on what another check refuses: one bad file then gives one finding, not five."""


def fail(reason: Reason, what: str, hint: str) -> Finding:
    """Return a failed finding: `reason` for programs, `what` for people (cut at `_MOST_CHARS`), `hint` the next step."""
    text = storable(what)
    return Finding.failed(reason, text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}...", hint)


def not_checked(name: str, why: str) -> Finding:
    """Return a passed finding of the check `name` that states why it did not look."""
    return Finding(name, passed=True, reason=f"not checked: {why}")


def counted(number: int, noun: str) -> str:
    """Return `1 file` or `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_of(names: tuple[str, ...] | list[str]) -> str:
    """Name a list in a message: its first few entries and how many more there are."""
    shown = ", ".join(name[:80] for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown  # noqa: PLR2004
