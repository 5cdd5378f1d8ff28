"""A plan as lm-eval's tasks: one per point of the grid, one document per answer, Python callables throughout. Runs in the child."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from core.benchmarks import Form, Sampling
from evals.harness.job import Job

Doc = Mapping[str, Any]
Verdicts = Mapping[str, bool | None]
"""By `verdict_key`: whether the answer passed; None where that is unknown (the engine or the sandbox failed)."""


def verdict_key(task_id: str, sampling: str, index: int) -> str:
    """Return the name of an answer in messages."""
    return f"{sampling}/{index}/{task_id}"


def tasks(job: Job, verdicts: Callable[[], Verdicts]) -> list[dict[str, Any]]:
    """Return the task dictionaries. `verdicts` is called once all are asked, and waits until all are judged.

    One document per answer and not lm-eval's `repeats`, which sends one seed again and again.
    """
    return [_task(job, point, verdicts) for point in job.grid]


def _task(job: Job, point: Sampling, verdicts: Callable[[], Verdicts]) -> dict[str, Any]:
    shown = dict(job.problems)
    docs = [{"task_id": task_id, "sampling": point.key, "index": index} for index in range(job.samples) for task_id, _shown in job.problems]

    def judged(_answers: Sequence[Sequence[str]], seen: Sequence[Doc]) -> list[bool | None]:
        said = verdicts()
        return [said.get(verdict_key(doc["task_id"], doc["sampling"], doc["index"])) for doc in seen]

    return {
        "task": f"{job.suite}-{point.key}",
        "custom_dataset": lambda **_metadata: {"test": Dataset.from_list(docs)},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": lambda doc: shown[doc["task_id"]],
        "doc_to_target": lambda doc: doc["task_id"],
        "generation_kwargs": {
            "until": list(job.stops),
            "max_gen_toks": point.max_tokens,
            "temperature": point.temperature,
            "frequency_penalty": point.frequency_penalty,
            "top_p": point.top_p,
            "do_sample": point.temperature > 0,
        },
        "filter_list": [{"name": "judged", "filter": [{"function": "custom", "filter_fn": judged}]}],
        "process_results": _passed,
        "metric_list": [{"metric": "pass_at_1", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0, "form": str(Form(job.form))},
    }


def _passed(_doc: Doc, results: Sequence[bool | None]) -> dict[str, float]:
    """Return the metric of one answer; empty where the verdict is unknown: lm-eval then leaves the answer out of the mean."""
    (passed,) = results
    return {} if passed is None else {"pass_at_1": float(passed)}
