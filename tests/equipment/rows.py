"""Rows brought into any state that a test begins with, past the transition tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from core.benchmarks import Benchmark
from core.endpoints import Rollout
from core.ids import BenchmarkId, Epoch, SubmissionId
from core.ports import Records
from core.submissions import Submission
from tests.equipment.samples import a_rollout


def put_submission(records: Records, submission: SubmissionId, now: Epoch, **fields: Any) -> Submission:
    """Store the submission with these fields, and return it."""
    return records.submissions.store(replace(records.submissions.get(submission), **fields), now)


def put_benchmark(records: Records, benchmark: BenchmarkId, now: Epoch, **fields: Any) -> Benchmark:
    """Store the benchmark with these fields, and return it."""
    return records.benchmarks.store(replace(records.benchmarks.get(benchmark), **fields), now)


def open_rollout(records: Records, **fields: Any) -> Rollout:
    """Open a rollout against the version that its endpoint serves."""
    rollout = a_rollout(**fields)
    return records.rollouts.open(replace(rollout, stable=records.endpoints.get(rollout.endpoint).stable))
