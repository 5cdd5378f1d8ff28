"""The contract of `Benchmarks` (core/ports/records/), on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.benchmarks import BenchmarkState, Sampling, Trigger
from core.errors import NotFound, Stale
from core.ids import BenchmarkId, Digest, EndpointName, SubmissionId
from core.versions import Decision
from registry.database import Database
from tests.equipment.rows import put_benchmark
from tests.equipment.samples import ANN, CANDIDATE, CHAT, NOW, STABLE, a_benchmark, a_plan


def test_a_benchmark_comes_back_as_it_was_entered(records: Database) -> None:
    row = a_benchmark(asked_by=ANN, updated_at=NOW, submission=SubmissionId("sub-1"), numbers={"pass_at_1": 0.5}, comparison={"rows": [1]})
    assert records.benchmarks.create(row) == row
    assert records.benchmarks.get(row.id) == row


def test_the_same_id_again_keeps_the_first_row(records: Database) -> None:
    first = records.benchmarks.create(a_benchmark())
    assert records.benchmarks.create(a_benchmark(trigger=Trigger.SCHEDULE, reason="other")) == first


def test_an_unknown_benchmark_is_not_found(records: Database) -> None:
    with pytest.raises(NotFound, match="bm-none"):
        records.benchmarks.get(BenchmarkId("bm-none"))
    with pytest.raises(NotFound):
        records.benchmarks.store(a_benchmark(id=BenchmarkId("bm-none")), NOW)


def test_benchmarks_are_found_by_what_they_are_of_newest_first(records: Database) -> None:
    other = a_plan(samples=9)
    rows = [
        a_benchmark(1),
        a_benchmark(2, version=CANDIDATE, trigger=Trigger.GATE, submission=SubmissionId("sub-1")),
        a_benchmark(3, endpoint=EndpointName("code"), plan=other, state=BenchmarkState.DONE),
    ]
    for row in rows:
        records.benchmarks.create(row)
    find = records.benchmarks.find
    assert [row.id for row in find()] == ["bm-3", "bm-2", "bm-1"]
    assert [row.id for row in find(limit=1)] == ["bm-3"]
    assert [row.id for row in find(endpoint=CHAT)] == ["bm-2", "bm-1"]
    assert [row.id for row in find(version=STABLE, plan=other.key)] == ["bm-3"]
    assert [row.id for row in find(states=[BenchmarkState.RUNNING], trigger=Trigger.GATE)] == ["bm-2"]
    assert [row.id for row in find(submission=SubmissionId("sub-1"))] == ["bm-2"]
    assert find(plan=Digest("0" * 64)) == ()


def test_a_plan_is_pinned_later_and_found_by_its_key(records: Database) -> None:
    asked = a_plan(suite_digest=Digest(""), prompt="", extractor="", stops=())
    row = records.benchmarks.create(a_benchmark(plan=asked))
    pinned = a_plan(grid=(Sampling(0.2), Sampling(0.8, 0.5)))
    changed = put_benchmark(records, row.id, NOW + 5, plan=pinned)
    assert (row.planned, changed.planned, changed.plan) == (False, True, pinned)
    assert records.benchmarks.find(plan=pinned.key) == (changed,)
    assert records.benchmarks.find(plan=asked.key) == ()


def test_an_end_state_is_never_left(records: Database) -> None:
    row = records.benchmarks.create(a_benchmark())
    numbers = {"pass_at_1": 0.25, "undefined": float("inf")}
    ended = put_benchmark(
        records,
        row.id,
        NOW + 9,
        state=BenchmarkState.DONE,
        ended_at=NOW + 9,
        numbers=numbers,
        decision=Decision.FAIL,
        baseline=BenchmarkId("bm-0"),
    )
    assert (ended.numbers, ended.decision, ended.baseline, ended.updated_at) == (numbers, Decision.FAIL, "bm-0", NOW + 9)
    with pytest.raises(Stale):
        put_benchmark(records, row.id, NOW + 10, state=BenchmarkState.RUNNING)
    assert records.benchmarks.get(row.id) == ended


def test_a_benchmark_is_stored_by_compare_and_set_on_its_revision(records: Database) -> None:
    row = records.benchmarks.create(a_benchmark())
    stored = records.benchmarks.store(replace(row, progress=0.5), NOW + 1)
    assert stored == replace(row, progress=0.5, updated_at=NOW + 1, revision=1)
    with pytest.raises(Stale, match="is at revision 1"):
        records.benchmarks.store(replace(row, progress=0.25), NOW + 2)
    assert records.benchmarks.get(row.id) == stored


def test_what_is_learnt_after_the_end_can_still_be_written_down(records: Database) -> None:
    row = records.benchmarks.create(a_benchmark(state=BenchmarkState.DONE))
    changed = put_benchmark(records, row.id, NOW + 10, studies={"st-1": {"rows": []}})
    assert changed == replace(row, studies={"st-1": {"rows": []}}, updated_at=NOW + 10, revision=1)


@pytest.mark.parametrize("field", ["version", "endpoint", "submission", "asked_by"])
def test_what_a_benchmark_is_of_never_changes(records: Database, field: str) -> None:
    row = records.benchmarks.create(a_benchmark())
    stored = put_benchmark(records, row.id, NOW, **{field: "x"})
    assert getattr(stored, field) == getattr(row, field)
