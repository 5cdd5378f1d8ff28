"""What the platform asks of the child, and what the child says: JSON lines both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from core.benchmarks import Form, Sampling

READY, ROW, ASKED, DONE, ERROR, DESCRIBED = "ready", "row", "asked", "done", "error", "described"
"""What the child says: lm-eval is imported; an answer; all are asked; all is done; it ended with an error; a task's description."""
JOB, VERDICTS, DESCRIBE = "job", "verdicts", "describe"
"""What the platform says: a job; what passed of it; describe a task of lm-eval's."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often an answer is asked for, and the pauses between (seconds, jittered, doubling up to the longest)."""

    attempts: int = 6
    first_pause_s: float = 0.25
    longest_pause_s: float = 10.0
    failed_share: float = 0.02
    """The part of answers that may fail for good (one always may) before the run is given up."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: problems (id and the text that is sent) x grid x samples, or a task of lm-eval's by its name."""

    run: str
    suite: str
    address: str
    version: str
    form: Form
    samples: int
    grid: tuple[Sampling, ...]
    stops: tuple[str, ...]
    seed: int
    problems: tuple[tuple[str, str], ...]
    rows: Path
    results: Path
    concurrency: int
    patience: Patience = Patience()
    lmeval_tasks: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "rows": str(self.rows), "results": str(self.results)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(
            **{
                **document,
                "form": Form(document["form"]),
                "grid": tuple(Sampling(**point) for point in document["grid"]),
                "stops": tuple(document["stops"]),
                "problems": tuple((task_id, text) for task_id, text in document["problems"]),
                "rows": Path(document["rows"]),
                "results": Path(document["results"]),
                "patience": Patience(**document["patience"]),
            }
        )


def line(kind: str, **fields: Any) -> bytes:
    """Return a message as a line."""
    return json.dumps({"kind": kind, **fields}).encode() + b"\n"
