"""The benchmark gate: a suite of programming problems against an engine, judged in the sandbox, held against the stable version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace

from core.degeneration import repeating_tail
from core.errors import Fault, Refused, Transient
from core.ids import VersionId
from core.ports.clock import Clock, SystemClock
from core.ports.sandbox import Program, RunOutcome, RunResult, Sandbox
from core.settings import TrialPolicy
from core.versions import Decision, Finding, TrialKind, TrialReport
from evals.engine_client import EngineClient, Generated
from evals.statistics import paired_p, wilson
from evals.suite import Problem, Suite
from evals.text import storable

MAX_TOKENS = 200
STOPS = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(")
_METHOD = "greedy-v1"
_RETRIES = 3
_BACKOFF_S = (0.5, 2.0, 5.0)
_JUDGES = 2

Progress = Callable[[float, str], None]
"""Called with (part done, a sentence); may raise to stop the work."""


@dataclass(frozen=True, slots=True)
class Row:
    """One problem's line in the report."""

    task_id: str
    outcome: str
    detail: str
    completion: str
    completion_tokens: int
    looped: bool
    seconds: float


def benchmark_key(suite: Suite) -> str:
    """Return what a score rests on: suite, its content, the way of asking."""
    return f"{suite.name}:{suite.digest[:16]}:{_METHOD}"


def run_benchmark(
    engine: EngineClient,
    suite: Suite,
    sandbox: Sandbox,
    version: VersionId,
    *,
    concurrency: int,
    progress: Progress = lambda _part, _text: None,
    clock: Clock | None = None,
) -> TrialReport:
    """Ask every problem once (greedy, prompt sent raw), judge prompt + completion, and return the score, not yet held against anything.

    Raises Transient when the engine stays away through three retries, Fault when the sandbox cannot judge: neither is the model's.
    """
    time = clock or SystemClock()
    begin = time.monotonic()
    rows: dict[str, Row] = {}
    with ThreadPoolExecutor(concurrency, "ask") as asking, ThreadPoolExecutor(_JUDGES, "judge") as judging:
        try:
            for row in _rows(engine, suite, sandbox, asking, judging, time):
                rows[row.task_id] = row
                solved = sum(done.outcome == RunOutcome.PASSED for done in rows.values())
                progress(len(rows) / len(suite.problems), f"{len(rows)} of {len(suite.problems)} problems, {solved} solved")
        finally:
            asking.shutdown(wait=False, cancel_futures=True)
            judging.shutdown(wait=False, cancel_futures=True)
    in_order = [rows[problem.task_id] for problem in suite.problems]
    seconds = time.monotonic() - begin
    return TrialReport(
        version=version,
        kind=TrialKind.BENCHMARK,
        key=benchmark_key(suite),
        decision=Decision.INCONCLUSIVE,
        findings=(),
        numbers=_numbers(in_order, seconds),
        detail={"rows": [asdict(row) for row in in_order]},
        seconds=seconds,
        at=time.now(),
    )


def gate_benchmark(candidate: TrialReport, stable: TrialReport | None, policy: TrialPolicy) -> TrialReport:
    """Return `candidate` with its decision: it fails below the stable version's pass@1 less the margin, or below `min_score` without one.

    The margin alone decides, so that the gate can be foretold; both intervals and the exact paired test on the problems that only one
    of the two solves stand beside it (`lost`, `won`, `paired_p`). Raises Fault when the two were scored on different suites.
    """
    if stable is None:
        return _held_against_minimum(candidate, policy)
    if stable.key != candidate.key:
        raise Fault(f"scores of {candidate.key} and {stable.key} cannot be compared", hint="benchmark both versions on one suite")
    theirs, ours = _solved(stable), _solved(candidate)
    lost, won = len(theirs - ours), len(ours - theirs)
    numbers = {**candidate.numbers, "stable_pass_at_1": stable.numbers["pass_at_1"], "lost": float(lost), "won": float(won)}
    judged = replace(candidate, numbers={**numbers, "paired_p": paired_p(lost, won)})
    if candidate.numbers["pass_at_1"] < stable.numbers["pass_at_1"] - policy.margin - 1e-9:
        reason = (
            f"pass@1 {_score(candidate)} is below the stable version's {_score(stable)} by more than {policy.margin:g}: "
            f"{lost} problems lost, {won} won"
        )
        return _decided(judged, "benchmark_below_stable", reason)
    return _decided(judged, "", f"pass@1 {_score(candidate)}; the stable version's is {_score(stable)}")


def _held_against_minimum(candidate: TrialReport, policy: TrialPolicy) -> TrialReport:
    if candidate.numbers["pass_at_1"] < policy.min_score - 1e-9:
        return _decided(candidate, "benchmark_below_minimum", f"pass@1 {_score(candidate)} is below the minimum of {policy.min_score:g}")
    return _decided(candidate, "", f"pass@1 {_score(candidate)}; the endpoint has no stable version yet")


def _decided(report: TrialReport, fault: str, reason: str) -> TrialReport:
    hint = "look at the problems it lost in the report, and submit a better one" if fault else ""
    finding = Finding(fault or "benchmark_score", passed=not fault, reason=reason, hint=hint)
    return replace(report, decision=Decision.FAIL if fault else Decision.PASS, findings=(finding,))


def _score(report: TrialReport) -> str:
    return f"{report.numbers['pass_at_1']:.2f} [{report.numbers['low']:.2f}, {report.numbers['high']:.2f}]"


def _solved(report: TrialReport) -> set[str]:
    return {row["task_id"] for row in report.detail.get("rows", ()) if row["outcome"] == RunOutcome.PASSED}


def _rows(
    engine: EngineClient, suite: Suite, sandbox: Sandbox, asking: ThreadPoolExecutor, judging: ThreadPoolExecutor, clock: Clock
) -> Iterator[Row]:
    """Yield a row per problem as they are done; the sandbox judges while the engine still generates."""
    asked = {asking.submit(_ask, engine, problem, clock): problem for problem in suite.problems}
    judged: list[Future[Row]] = []
    for future in as_completed(asked):
        judged.append(judging.submit(_judge, sandbox, asked[future], future.result()))
        for done in [row for row in judged if row.done()]:
            judged.remove(done)
            yield done.result()
    for done in as_completed(judged):
        yield done.result()


def _ask(engine: EngineClient, problem: Problem, clock: Clock) -> Generated | Refused:
    """Return the engine's answer, or why it will not answer this one. Transient errors are tried again three times."""
    for attempt in range(_RETRIES + 1):
        try:
            return engine.complete(problem.prompt, max_tokens=MAX_TOKENS, stop=STOPS)
        except Refused as error:
            return error
        except Transient as error:
            if attempt == _RETRIES:
                raise
            clock.wait(error.retry_after_s or _BACKOFF_S[attempt])
    raise AssertionError("unreachable")


def _judge(sandbox: Sandbox, problem: Problem, answer: Generated | Refused) -> Row:
    if isinstance(answer, Refused):
        return Row(problem.task_id, str(RunOutcome.FAILED), storable(answer.what[:500]), "", 0, looped=False, seconds=0.0)
    result = _run(sandbox, Program(problem.task_id, problem.prompt + answer.text, problem.test, problem.entry_point))
    looped = repeating_tail(answer.text, answer.completion_tokens) is not None
    shown = storable(answer.text)
    return Row(problem.task_id, str(result.outcome), result.detail, shown, answer.completion_tokens, looped, answer.seconds)


def _run(sandbox: Sandbox, program: Program) -> RunResult:
    for _attempt in range(2):
        (result,) = sandbox.run([program])
        if result.outcome is not RunOutcome.SANDBOX_FAULT:
            return result
    raise Fault(f"the sandbox cannot judge {program.id}: {result.detail}", hint="run seatrial doctor; the model is not at fault")


def _numbers(rows: list[Row], seconds: float) -> dict[str, float]:
    solved = sum(row.outcome == RunOutcome.PASSED for row in rows)
    low, high = wilson(solved, len(rows))
    tokens = sum(row.completion_tokens for row in rows)
    return {
        "pass_at_1": solved / len(rows),
        "low": low,
        "high": high,
        "problems": float(len(rows)),
        "solved": float(solved),
        "loop_rate": sum(row.looped for row in rows) / len(rows),
        "completion_tokens": float(tokens),
        "tokens_per_s": tokens / seconds if seconds > 0 else 0.0,
    }
