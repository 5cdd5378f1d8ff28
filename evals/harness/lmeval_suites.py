"""lm-eval's own tasks as suites: described by the child, asked and scored by lm-eval itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from core.benchmarks import Flaw, Form, Sample
from core.errors import Fault
from core.ids import Digest
from core.programs import RunOutcome, RunResult
from evals.degeneration import flaws
from evals.harness.job import DESCRIBE, DESCRIBED, DONE, JOB, ROW, Job
from evals.harness.judging import sample_of
from evals.harness.process import Child
from evals.harness.rows import Row
from evals.harness.seeds import Identity
from evals.suites.suite import COMPLETION, LMEVAL, Problem, PromptTemplate, Suite

_EXTRACTOR = "lm-eval-0.4.13"
_LIMIT_S = 600.0
_SCORED = "lm-eval"


def describe(name: str, folder: str) -> Suite:
    """Return the suite `lmeval:TASK`: its documents' ids and prompts, and a digest of its configuration and documents.

    Raises Refused when lm-eval has no such task, or its data set cannot be had (it comes from the hub).
    """
    child = Child(network=True)
    try:
        child.say(DESCRIBE, task=name.removeprefix(LMEVAL), folder=folder)
        message = child.next(_LIMIT_S)
    finally:
        child.close()
    if message["kind"] != DESCRIBED:
        raise Fault(f"the benchmark's child process said {message['kind']!r} where {DESCRIBED!r} was due", hint="try again")
    problems = tuple(Problem(task_id, prompt, "", "") for task_id, prompt in message["problems"])
    way = replace(COMPLETION, prompt=PromptTemplate(_SCORED, 1, "{{prompt}}"), extractor=_EXTRACTOR, stops=())
    forms = (Form.COMPLETION, Form.CHAT) if message["chat"] else (Form.COMPLETION,)
    return Suite(name, Digest(message["digest"]), problems, completion=way, chat=way, forms=forms)


def collect(child: Child, job: Job, progress: Callable[[float, str], None]) -> Mapping[Identity, Sample]:
    """Have a task asked and scored, and return a sample per document, point and index."""
    child.say(JOB, job=job.to_json())
    rows: dict[Identity, Row] = {}
    while (message := child.next())["kind"] == ROW:
        row = Row.from_json(message["row"])
        rows[row.identity] = row
        progress(0.0, f"{len(rows)} requests of {job.suite}")
    if message["kind"] != DONE:
        raise Fault(f"the benchmark's child process said {message['kind']!r} where {DONE!r} was due", hint="run it again")
    samples = [_sample(one, rows) for one in message["scored"]]
    return {(one.task_id, one.sampling, one.index): one for one in samples}


def _sample(scored: Mapping[str, object], rows: Mapping[Identity, Row]) -> Sample:
    task_id, sampling, index = str(scored["task_id"]), str(scored["sampling"]), int(str(scored["index"]))
    parts = [rows[identity] for part in range(64) if (identity := (f"{task_id}/{part}", sampling, index)) in rows]
    row = replace(parts[0], task_id=task_id) if parts else Row(task_id, sampling, index, 0, failed="lm-eval did not ask it")
    failed = next((part.failed for part in parts if part.failed), row.failed)
    outcome = RunOutcome.SANDBOX_FAULT if failed else RunOutcome.PASSED if scored["passed"] else RunOutcome.FAILED
    result = RunResult(task_id, outcome, f"no answer: {failed}" if failed else str(scored["detail"]), 0.0, isolation=_SCORED)
    generated = row.finish_reason not in {"scored", ""}
    wrong = _flaws(row) if generated else ()
    return sample_of(row, "", result, wrong)


def _flaws(row: Row) -> tuple[Flaw, ...]:
    """Return the flaws that can be detected in an answer that is not a program."""
    found = flaws(
        text=row.text,
        code=row.text,
        entry_point="",
        finish_reason=row.finish_reason,
        completion_tokens=row.completion_tokens,
        mean_logprob=row.mean_logprob,
    )
    return tuple(flaw for flaw in found if flaw not in {Flaw.UNPARSABLE, Flaw.NO_ENTRY_POINT})
