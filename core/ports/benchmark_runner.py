"""The ports that run a benchmark and that compare policies on its stored answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from core.benchmarks import Form, Plan, Sample
from core.ids import VersionId

Progress = Callable[[float, str], None]
"""Called with (part done, a sentence); may raise to stop the work."""


class BenchmarkRunner(Protocol):
    """Sends the problems of a suite to a model and judges its answers.

    Errors: Refused (no such suite), Transient (engine or prompt registry unavailable), Fault (the sandbox).
    """

    def pin(self, asked: Plan, own: Form) -> Plan:
        """Return the plan with the suite's digest, the form, the versions of prompt and extractor, and the stops.

        `own` is the model's form (`core.benchmarks.form_of`). Pinned plans stay unchanged. Refused where the suite or the model does not
        support the form.
        """
        ...

    def run(self, address: str, version: VersionId, plan: Plan, rows: Path, progress: Progress) -> tuple[Sample, ...]:
        """Return every sample of a pinned plan from the engine at `http://host:port`. Appends each to `rows`; resumes from that file."""
        ...


class SamplingStudy(Protocol):
    """Compares policies that choose one of several stored answers. Errors: Refused, Transient (ranker unavailable)."""

    def compare(
        self, samples: Sequence[Sample], plan: Plan, *, policies: Sequence[str], best_of: Sequence[int], ranker: tuple[str, str] | None
    ) -> Mapping[str, Any]:
        """Return `rows` (one per policy, number of answers and sampling) and `advice`, as JSON. `ranker`: (OpenAI's base URL, model)."""
        ...
