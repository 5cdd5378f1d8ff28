"""A sampling study on stored rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prefect.artifacts import create_table_artifact
from pydantic import BaseModel, Field

from core.benchmarks import BenchmarkState
from core.errors import SeatrialError
from core.ids import BenchmarkId
from core.ports import Clock, Records
from core.shown import key_of, label, measure
from lifecycle.benchmarks import note_study
from tasks.notes import run_log
from tasks.step import step_task
from wiring import platform


class StudyRequest(BaseModel):
    """Which benchmark is studied, and which ways of choosing."""

    benchmark: str = Field(description="a benchmark that has ended")
    study: str = Field(description="the study's id")
    policies: list[str] = Field(default=["random", "mean_logprob", "voting"], description="ways of choosing one of several answers")
    best_of: list[int] = Field(default=[1, 4, 8], description="among how many answers is chosen")
    ranker_url: str = Field(default="", description="an OpenAI-compatible endpoint whose model ranks answers; empty: none")
    ranker_model: str = Field(default="", description="that model's name")


@step_task
def compare_stored(request: StudyRequest) -> str:
    """Compare the policies, and keep the table with the benchmark and on Prefect's page."""
    here = platform()
    row = here.records.benchmarks.get(BenchmarkId(request.benchmark))
    found = here.sampling_study.compare(
        here.answers.read(row),
        row.plan,
        policies=tuple(request.policies),
        best_of=tuple(request.best_of),
        ranker=(request.ranker_url, request.ranker_model) if request.ranker_url else None,
    )
    keep(here.records, here.clock, request, {"state": BenchmarkState.DONE, **found})
    run_log().info("compare: %d policies on %s; %s", len(request.policies), row.id, found["advice"])
    key = key_of("endpoint", row.endpoint, "study") if row.endpoint else key_of("version", row.version[:12], "study")
    create_table_artifact(table=study_rows(found["rows"]), key=key, description=f"Policies compared on {row.id}: {found['advice']}")
    return str(found["advice"])


def study_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return a study's rows for people: numbers rounded by what they measure, no nested values."""
    flat = ({name: value for name, value in row.items() if not isinstance(value, (list, dict))} for row in rows)
    return [{label(name): measure(name, value) if isinstance(value, float) else str(value) for name, value in row.items()} for row in flat]


def end_study_failed(request: StudyRequest, error: SeatrialError) -> None:
    """Write down why it could not be done."""
    here = platform()
    keep(here.records, here.clock, request, {"state": BenchmarkState.FAILED, "reason": str(error), "rows": []})


def keep(records: Records, clock: Clock, request: StudyRequest, document: dict[str, Any]) -> None:
    """Keep a study with its benchmark, beside those that are there."""
    asked = request.model_dump(exclude={"study", "benchmark"})
    note_study(records, clock, BenchmarkId(request.benchmark), request.study, {"asked": asked, "at": clock.now(), **document})
