"""What the child does once lm-eval is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from core.benchmarks import Form
from core.ids import VersionId
from evals.engine_client import EngineClient
from evals.harness import lmeval_work
from evals.harness.engine_lm import EngineLM
from evals.harness.job import Job
from evals.harness.rows import Row, Rows
from evals.harness.suite_tasks import Verdicts, tasks

describe = lmeval_work.describe


def run(job: Job, say: Callable[[Row], None], verdicts: Callable[[], Verdicts]) -> Mapping[str, Any]:
    """Run a job and return lm-eval's results document, without its copy of the samples: the rows are kept beside it."""
    with Rows(job.rows, job.run) as rows, EngineClient(job.address, VersionId(job.version)) as engine:
        lm = EngineLM(job, engine, rows, say)
        if job.problems:
            return _evaluate(job, lm, verdicts)
        return lmeval_work.evaluate(job, lm)


def _evaluate(job: Job, lm: EngineLM, verdicts: Callable[[], Verdicts]) -> Mapping[str, Any]:
    said: list[Verdicts] = []

    def once() -> Verdicts:
        if not said:
            said.append(verdicts())
        return said[0]

    document = simple_evaluate(
        model=lm,
        tasks=tasks(job, once),
        task_manager=TaskManager(include_defaults=False),
        apply_chat_template=job.form is Form.CHAT,
        bootstrap_iters=0,  # evals.statistics has the intervals, clustered by problem
        log_samples=True,
    )
    return {key: value for key, value in (document or {}).items() if key != "samples"}
