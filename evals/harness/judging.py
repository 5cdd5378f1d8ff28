"""Judges answers in the sandbox while the engine still writes others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from core.benchmarks import Flaw, Form, Plan, Sample
from core.errors import Fault, Refused
from core.ports.sandbox import Sandbox
from core.programs import Program, RunOutcome, RunResult
from evals.calibration import calibrate, cpu_limit
from evals.degeneration import flaws
from evals.harness.extract import extract
from evals.harness.rows import Row
from evals.harness.seeds import Identity
from evals.suites.suite import Problem, Suite
from evals.text import storable

_BATCH = 64
_MOST_DETAIL = 500
_LEAST_WALL_S = 8.0  # for a program that waits; how busy this machine is must not count
_WALL_OVER_CPU = 4.0


class Judge:
    """Takes rows and makes samples of them, in a thread of its own that ends with `finish` or `stop`."""

    def __init__(self, suite: Suite, plan: Plan, sandbox: Sandbox) -> None:
        self._suite = suite
        self._plan = plan
        self._sandbox = sandbox
        self._problems = {problem.task_id: problem for problem in suite.problems}
        self._queue: SimpleQueue[Row | None] = SimpleQueue()
        self._stopped = False
        self.samples: dict[Identity, Sample] = {}
        pool = ThreadPoolExecutor(1, "judge")
        self._work_done = pool.submit(self._work)  # a future: an error that ends the thread reaches the waiting caller
        pool.shutdown(wait=False)

    def take(self, row: Row) -> None:
        """Queue a row."""
        self._queue.put(row)

    def check(self) -> None:
        """Raise what the judging of an earlier row raised."""
        if self._work_done.done():
            self._work_done.result()

    def finish(self) -> Mapping[Identity, Sample]:
        """Wait for all and return them. Raises Fault when the sandbox cannot judge."""
        self._queue.put(None)
        self._work_done.result()
        return self.samples

    def stop(self) -> None:
        """Judge no more than what is being judged now."""
        self._stopped = True
        self._queue.put(None)

    def _work(self) -> None:
        canonical = self._canonical()
        going = True
        while going and not self._stopped:
            batch = [self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            going = None not in batch
            self._judge([row for row in batch if row is not None], canonical)

    def _judge(self, rows: Sequence[Row], canonical: Mapping[str, float]) -> None:
        programs: dict[Identity, Program] = {}
        for row in rows:
            if row.failed or row.refused:
                self.samples[row.identity] = self._unanswered(row)
            else:
                programs[row.identity] = self._program(row, cpu_limit(canonical.get(row.task_id)))
        results = dict(zip(programs, self._sandbox.run(list(programs.values())), strict=True)) if programs else {}
        for row in rows:
            if row.identity in results:
                result = self._again(programs[row.identity], results[row.identity])
                self.samples[row.identity] = self._sample(row, programs[row.identity].code, result)

    def _canonical(self) -> Mapping[str, float]:
        """Return the CPU seconds of the canonical solutions. One that does not pass is the suite's fault, never the model's."""
        try:
            return calibrate(self._sandbox, self._suite.problems)
        except Refused as error:
            raise Fault(f"the suite {self._suite.name} cannot be judged here: {error.what}", hint=error.hint) from error

    def _program(self, row: Row, cpu_s: float) -> Program:
        problem = self._problems[row.task_id]
        wall_s = max(_LEAST_WALL_S, _WALL_OVER_CPU * cpu_s)
        return Program(row.task_id, self._code(row, problem), problem.test, problem.entry_point, cpu_s, wall_s, given=problem.prompt)

    def _code(self, row: Row, problem: Problem) -> str:
        return extract(
            self._plan.extractor, prompt=problem.prompt, answer=row.text, entry_point=problem.entry_point, stops=self._plan.stops
        )

    def _again(self, program: Program, result: RunResult) -> RunResult:
        """Return the result, tried once more where the sandbox itself failed; then that is a fault of the run."""
        if result.outcome is RunOutcome.SANDBOX_FAULT:
            (result,) = self._sandbox.run([program])
        if result.outcome is RunOutcome.SANDBOX_FAULT:
            raise Fault(f"the sandbox cannot judge {program.id}: {result.detail}", hint="run seatrial doctor; the model is not at fault")
        return result

    def _unanswered(self, row: Row) -> Sample:
        """Return a sample that is left out of the score (the engine failed), or counts against the model (it cannot take the prompt)."""
        outcome = RunOutcome.FAILED if row.refused else RunOutcome.SANDBOX_FAULT
        reason = row.refused or f"no answer: {row.failed}"
        return Sample(*row.identity, row.seed, "", "", "error", 0, 0, None, 0.0, outcome, storable(reason[:_MOST_DETAIL]))

    def _sample(self, row: Row, code: str, result: RunResult) -> Sample:
        problem = self._problems[row.task_id]
        wrong = flaws(
            text=row.text,
            code=code,
            entry_point=problem.entry_point,
            finish_reason=row.finish_reason,
            completion_tokens=row.completion_tokens,
            mean_logprob=row.mean_logprob,
            prompt=problem.prompt if self._plan.form is Form.COMPLETION else "",
        )
        return sample_of(row, storable(code), result, wrong)


def sample_of(row: Row, code: str, result: RunResult, wrong: tuple[Flaw, ...] = ()) -> Sample:
    """Return a row with its verdict, fit to be stored."""
    return Sample(
        *row.identity,
        row.seed,
        storable(row.text),
        code,
        row.finish_reason,
        row.prompt_tokens,
        row.completion_tokens,
        row.mean_logprob,
        row.seconds,
        result.outcome,
        storable(result.detail[:_MOST_DETAIL]),
        result.cpu_s,
        result.isolation,
        wrong,
    )
