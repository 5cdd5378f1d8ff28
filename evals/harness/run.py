"""Runs a plan: the child asks, the sandbox judges meanwhile, and lm-eval's results document is kept beside the rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import Any

from core.benchmarks import Plan, Sample
from core.errors import Fault, Transient
from core.ids import VersionId
from core.ports.sandbox import Sandbox
from core.programs import RunOutcome
from evals.harness import process
from evals.harness.job import ASKED, DONE, JOB, ROW, VERDICTS, Job, Patience
from evals.harness.judging import Judge
from evals.harness.rows import Row
from evals.harness.seeds import Identity
from evals.suites.suite import Suite

Progress = Callable[[float, str], None]
"""Called with (part done, a sentence); may raise to stop the work."""

_TICK_S = 0.5
_VERDICT_LIMIT_S = 600.0  # lm-eval's own work after the last verdict takes seconds


def run_plan(
    address: str,
    version: VersionId,
    plan: Plan,
    suite: Suite,
    sandbox: Sandbox,
    rows: Path,
    *,
    concurrency: int,
    progress: Progress = lambda _part, _text: None,
    patience: Patience | None = None,
    lmeval_tasks: str = "",
) -> tuple[Sample, ...]:
    """Ask the engine at `address` everything in the plan that `rows` does not hold yet, judge all, and return it in the plan's order.

    `rows` grows with every answer and may come from an earlier run of this plan, or of it with fewer samples: nothing is asked twice.
    An answer that the engine fails to give is retried and then left out of the score (`sandbox_fault`, with the reason). Raises Transient
    when too many fail or the engine is unavailable, Fault when the sandbox cannot judge or the set-up is wrong; the rows stay for the next
    attempt. Exceptions of `progress` pass through. No two seeds of a run are equal (`evals.harness.seeds`).
    """
    _check(plan, suite)
    job = _job(address, version, plan, suite, rows, concurrency, patience or Patience(), lmeval_tasks)
    child = process.Child(network=True) if suite.lmeval else process.take()
    try:
        if suite.lmeval:
            from evals.harness.lmeval_suites import collect  # noqa: PLC0415 - the other suites do not need it

            samples = collect(child, job, progress)
        else:
            samples = _judged(child, job, Judge(suite, plan, sandbox), progress)
    except BaseException:
        child.kill()
        raise
    process.give(child)
    return _in_order(samples, plan, suite)


def results(rows: Path) -> Mapping[str, Any]:
    """Return lm-eval's results document of the run whose rows lie there. Raises Fault when there is none."""
    path = results_path(rows)
    try:
        document: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Fault(f"there is no results document at {path}", hint="the run has not ended yet; run it again and it resumes") from error
    return document


def results_path(rows: Path) -> Path:
    """Return where lm-eval's results document of a run lies: `<rows>.results.json`, without the rows' own ending."""
    return rows.with_name(rows.name.removesuffix(".jsonl") + ".results.json")


def _check(plan: Plan, suite: Suite) -> None:
    if plan.suite_digest != suite.digest:
        raise Fault(f"the plan is of another {plan.suite}", hint="load the suite again and make a plan of it")


def _job(
    address: str, version: VersionId, plan: Plan, suite: Suite, rows: Path, concurrency: int, patience: Patience, lmeval_tasks: str
) -> Job:
    return Job(
        run=_run_name(version, plan),
        suite=suite.name,
        address=address,
        version=version,
        form=plan.form,
        samples=plan.samples,
        grid=plan.grid,
        stops=plan.stops,
        seed=plan.seed,
        problems=() if suite.lmeval else tuple((problem.task_id, suite.shown(problem, plan.form)) for problem in suite.problems),
        rows=rows,
        results=results_path(rows),
        concurrency=concurrency,
        patience=patience,
        lmeval_tasks=lmeval_tasks,
    )


def _run_name(version: VersionId, plan: Plan) -> str:
    """Return what the rows of a run have in common, however many samples are asked for."""
    return hashlib.sha256(f"{version}:{replace(plan, samples=1).key}".encode()).hexdigest()


def _judged(child: process.Child, job: Job, judge: Judge, progress: Progress) -> Mapping[Identity, Sample]:
    """Have the job done and its answers judged meanwhile."""
    try:
        child.say(JOB, job=job.to_json())
        total = len(job.problems) * len(job.grid) * job.samples
        told = -1
        while (message := _next(child)) is None or message["kind"] == ROW:
            if message is not None:
                judge.take(Row.from_json(message["row"]))
            judge.check()
            if len(judge.samples) != told:
                told = len(judge.samples)
                progress(told / total, _said(judge.samples.values(), total))
        _expect(message, ASKED)
        samples = judge.finish()
        progress(1.0, _said(samples.values(), total))
        child.say(VERDICTS, passed={_key(identity): _verdict(sample) for identity, sample in samples.items()})
        _expect(_next(child, _VERDICT_LIMIT_S), DONE)
    except BaseException:
        judge.stop()
        raise
    return samples


def _next(child: process.Child, timeout_s: float = _TICK_S) -> dict[str, Any] | None:
    with suppress(Empty):
        return child.next(timeout_s)
    return None


def _expect(message: Mapping[str, Any] | None, kind: str) -> None:
    if message is None or message["kind"] != kind:
        raise Fault(f"the benchmark's child process said {message and message['kind']!r} where {kind!r} was due", hint="run it again")


def _key(identity: Identity) -> str:
    """Return suite_tasks.verdict_key of an identity (that module imports lm-eval's data sets)."""
    task_id, sampling, index = identity
    return f"{sampling}/{index}/{task_id}"


def _verdict(sample: Sample) -> bool | None:
    return None if sample.outcome is RunOutcome.SANDBOX_FAULT else sample.passed


def _said(samples: Iterable[Sample], total: int) -> str:
    outcomes = [sample.outcome for sample in list(samples)]
    return f"{len(outcomes)} of {total} answers, {outcomes.count(RunOutcome.PASSED)} solved"


def _in_order(samples: Mapping[Identity, Sample], plan: Plan, suite: Suite) -> tuple[Sample, ...]:
    wanted = [(problem.task_id, point.key, index) for point in plan.grid for problem in suite.problems for index in range(plan.samples)]
    missing = [identity for identity in wanted if identity not in samples]
    if missing:
        raise Transient(f"{len(missing)} answers are missing, first {missing[0][0]}", hint="run it again: it resumes")
    return tuple(samples[identity] for identity in wanted)
