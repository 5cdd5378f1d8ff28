"""Who asks a model the problems of a suite and judges its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from core.benchmarks import Plan, Sample
from core.ids import VersionId

Progress = Callable[[float, str], None]
"""Called with (part done, a sentence); may raise to stop the work."""


class Examiner(Protocol):
    """Asks and judges. Errors: Refused (no such suite), Transient (engine or prompt registry unavailable), Fault (the sandbox)."""

    def pin(self, asked: Plan) -> Plan:
        """Return the plan with the suite's digest, the versions of prompt and extractor, and the stops; a pinned one as it is."""
        ...

    def examine(self, address: str, version: VersionId, plan: Plan, rows: Path, progress: Progress) -> tuple[Sample, ...]:
        """Return every sample of a pinned plan, asked at `http://host:port`. `rows` grows as they come, and is where it resumes from."""
        ...


class Student(Protocol):
    """Compares ways of choosing one of several stored answers. Errors: Refused, Transient (ranker unavailable)."""

    def compare(
        self, samples: Sequence[Sample], plan: Plan, *, policies: Sequence[str], best_of: Sequence[int], ranker: tuple[str, str] | None
    ) -> Mapping[str, Any]:
        """Return `rows` (a policy, number of answers and sampling each) and `advice`, as JSON. `ranker`: (OpenAI's base URL, model)."""
        ...
