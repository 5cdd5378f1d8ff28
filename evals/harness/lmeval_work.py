"""lm-eval's own tasks (gsm8k, mmlu, ...) and tasks of the user's own in its YAML. Runs in the child."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from core.benchmarks import Form
from core.errors import Refused
from core.reasons import Reason
from evals.harness.engine_lm import EngineLM
from evals.harness.job import Job

_SHOWN_CHARS = 2000


def describe(task: str, folder: str) -> dict[str, Any]:
    """Return a task's documents (id and prompt), the sha256 of its configuration and documents, and whether it can be asked in chat form.

    Raises Refused when it cannot be had.
    """
    loaded = _loaded(task, folder)["tasks"]
    digest = hashlib.sha256()
    problems: list[tuple[str, str]] = []
    for name, one in sorted(loaded.items()):
        digest.update(json.dumps(one.config.to_dict(), sort_keys=True, default=str).encode())
        for number, doc in enumerate(one.eval_docs):
            digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
            problems.append((f"{name}/{number}", str(one.doc_to_text(doc))[:_SHOWN_CHARS]))
    chat = all(str(one.OUTPUT_TYPE) == "generate_until" for one in loaded.values())  # a template cannot score given continuations
    return {"digest": digest.hexdigest(), "problems": problems, "chat": chat}


def evaluate(job: Job, lm: EngineLM) -> Mapping[str, Any]:
    """Run a task at every point of the grid, `samples` times, and return lm-eval's results documents with every answer's verdict."""
    task = job.suite.partition(":")[2]
    runs: list[dict[str, Any]] = []
    scored: list[dict[str, Any]] = []
    for point in job.grid:
        for index in range(job.samples):
            lm.at = (point, index)
            document = simple_evaluate(
                model=lm,
                tasks=[task],
                task_manager=_manager(job.lmeval_tasks),
                apply_chat_template=job.form is Form.CHAT,
                bootstrap_iters=0,
                log_samples=True,
            )
            said = dict(document or {})
            samples = said.pop("samples", {})
            runs.append({"sampling": point.key, "index": index, **said})
            scored.extend({**one, "sampling": point.key, "index": index} for one in _scored(samples))
    return {"runs": runs, "scored": scored}


def _scored(samples: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield every document's verdict: its first metric under the task's first filter."""
    for task, rows in samples.items():
        seen: set[int] = set()
        for row in rows:
            if row["doc_id"] in seen or not row["metrics"]:
                continue
            seen.add(row["doc_id"])
            metric = row["metrics"][0]
            value = row[metric]
            passed = float(value) >= 1.0 if isinstance(value, int | float | bool) else bool(value)
            detail = "" if passed else f"{metric} is {value}, the answer is {str(row['target'])[:200]}"
            yield {"task_id": f"{task}/{row['doc_id']}", "passed": passed, "detail": detail}


def _loaded(task: str, folder: str) -> Mapping[str, Any]:
    try:
        loaded: Mapping[str, Any] = _manager(folder).load([task])
    except KeyError as error:
        raise Refused(
            f"lm-eval has no task {task[:100]!r}",
            reason=Reason.BAD_SUITE,
            hint="`python -m lm_eval ls tasks` in the platform's environment lists them",
        ) from error
    except (OSError, ValueError, ImportError, httpx.HTTPError) as error:
        raise Refused(
            f"the task {task[:100]!r} of lm-eval cannot be had: {type(error).__name__}: {str(error)[:200]}",
            reason=Reason.NO_DATASET,
            hint="its data set comes from the hub: see that it can be reached, or use a suite that is a file",
        ) from error
    return loaded


def _manager(folder: str) -> TaskManager:
    return TaskManager(include_path=folder or None)
