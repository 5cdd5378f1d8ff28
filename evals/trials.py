"""The short trials on the dark candidate: does it answer, how fast, and does it fall into loops or write nonsense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb
from statistics import median

from core.benchmarks import Flaw, Sample
from core.errors import Refused
from core.ids import VersionId
from core.ports.clock import Clock, SystemClock
from core.programs import RunOutcome
from core.reasons import Reason
from core.settings import TrialPolicy
from core.versions import Decision, Finding, TrialKind, TrialReport
from evals.degeneration import Means, judge_improbable, judge_loops, judge_nonsense
from evals.engine_client import EngineClient, Generated
from evals.statistics import wilson
from evals.statistics.tally import judged

_Messages = tuple[dict[str, str], ...]
_HELLO: _Messages = ({"role": "user", "content": "Hello"},)
_SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
_LONG_ANSWERS = ("Tell me a long story about the sea.", "Count from one to one hundred.", "Hello")
_DEFAULT_TOKENS = 64
"""A chat that sets no length has to be able to reach this many tokens."""
_TELLING_TOKENS = 16
"""An answer that ends after fewer tokens, before its limit, does not show whether longer answers are cut."""
_SMOKE_TOKENS = 32
_LATENCY_TOKENS = 32
_LATENCY_REQUESTS = 5
_UNDECODABLE = "\ufffd"
_TINY = 1e-9
_UNANSWERED = {"chat": Reason.NO_CHAT, "completion": Reason.NO_COMPLETION}


def smoke(engine: EngineClient, version: VersionId, clock: Clock | None = None) -> TrialReport:
    """Ask for a chat answer, a completion, and a chat with the model's own defaults. Transient errors of the engine pass through.

    The first two have to be text. The third sets neither length nor sampling, as most users' requests, and must not be cut short.
    """
    time = clock or SystemClock()
    begin = time.monotonic()
    findings = [
        _answers("chat", lambda: _chat(_HELLO, lambda messages: engine.chat(messages, max_tokens=_SMOKE_TOKENS))),
        _answers("completion", lambda: engine.complete("def ", max_tokens=_SMOKE_TOKENS)),
    ]
    if all(finding.passed for finding in findings):
        findings.append(_answers_by_defaults(engine))
    return _report(version, TrialKind.SMOKE, "smoke-v2", tuple(findings), _Timing(time, begin))


def latency(engine: EngineClient, version: VersionId, policy: TrialPolicy, clock: Clock | None = None) -> TrialReport:
    """Measure an idle engine one request at a time: median time to first token, and tokens per second of whole answers.

    Of whole answers, because engines send several tokens in one event: a rate from the first event on would say nothing.
    """
    time = clock or SystemClock()
    begin = time.monotonic()
    ask = partial(_chat, _HELLO, lambda messages: engine.chat(messages, max_tokens=_LATENCY_TOKENS))
    ask()  # warms up: the first request of this shape pays for what is compiled or cached
    answers = [ask() for _ in range(_LATENCY_REQUESTS)]
    ttft_s = median(answer.ttft_s for answer in answers)
    rate = median(answer.completion_tokens / answer.seconds if answer.seconds > 0 else 0.0 for answer in answers)
    numbers = {"ttft_s": ttft_s, "tokens_per_s": rate, "requests": float(len(answers))}
    said = f"the median time to first token of the idle engine is {ttft_s:.3f} s"
    finding = Finding("first_token", passed=True, reason=said)
    if ttft_s > policy.max_ttft_s:
        hint = "Submit a smaller or quantised model, or ask an operator to raise SEATRIAL_TRIALS_MAX_TTFT_S"
        finding = Finding.failed(Reason.SLOW_FIRST_TOKEN, f"{said}, above {policy.max_ttft_s:g} s", hint)
    return _report(version, TrialKind.LATENCY, "idle-v1", (finding,), _Timing(time, begin), numbers)


def degeneration(
    benchmark: TrialReport,
    stable: TrialReport | None,
    policy: TrialPolicy,
    clock: Clock | None = None,
    ask_stable: Callable[[], Means] | None = None,
) -> TrialReport:
    """Judge the part of benchmark answers that end in a loop, and the parts that are nonsense or improbable to the stable version.

    Each may exceed the stable version's own by `max_loop_rate` and `max_nonsense_rate`. Against a stable version the answers to the same
    problems are pairs (`judge_loops`, `judge_nonsense`). A first version fails when so many loops have a
    probability of at most 5 % at a rate equal to the limit (exact binomial). A rate above the limit that may be chance passes, with the
    finding `loops_inconclusive`. `ask_stable` returns what `judge_improbable` reads; it is called only where the other two pass, since
    the stable version's engine serves users.
    """
    time = clock or SystemClock()
    timing = _Timing(time, time.monotonic())
    ours = _answered(benchmark)
    theirs = _answered(stable) if stable is not None else ()
    decision, reason = judge_loops(ours, theirs, policy.max_loop_rate) if theirs else _first_loops(ours, policy.max_loop_rate)
    name, hint = _LOOPS[decision]
    failed = decision is Decision.FAIL
    finding = Finding.failed(Reason.DEGENERATE_ANSWERS, reason, hint) if failed else Finding(name, passed=True, reason=reason, hint=hint)
    nonsense, rates = judge_nonsense(benchmark, stable, policy.max_nonsense_rate)
    rate, own = benchmark.numbers["loop_rate"], stable.numbers["loop_rate"] if stable is not None else 0.0
    numbers = {"loop_rate": rate, "allowed": min(1.0, own + policy.max_loop_rate), "stable_loop_rate": own, **rates}
    findings: tuple[Finding, ...] = (finding, nonsense)
    if ask_stable is not None and all(found.passed for found in findings):
        improbable, means = judge_improbable(ask_stable(), policy.max_nonsense_rate)
        findings, numbers = (*findings, improbable), {**numbers, **means}
    return _report(benchmark.version, TrialKind.DEGENERATION, benchmark.key, findings, timing, numbers)


_LOOPS = {
    Decision.PASS: ("no_degeneration", ""),
    Decision.INCONCLUSIVE: ("loops_inconclusive", "Read the looping answers in the benchmark's report; a larger suite would settle it"),
    Decision.FAIL: (
        "degenerate_answers",
        "Read the looping answers in the benchmark's report, train the model further or change its sampling defaults, and submit again",
    ),
}
_ALPHA = 0.05


def _first_loops(answers: Sequence[Sample], limit: float) -> tuple[Decision, str]:
    """Return whether the loop rate of a first version is above the limit, with the numbers."""
    looped = sum(Flaw.LOOP in answer.flaws for answer in answers)
    low, high = wilson(looped, len(answers))
    said = f"{looped} of {len(answers)} benchmark answers end in a loop ({100 * low:.1f} to {100 * high:.1f} %)"
    if not answers or looped / len(answers) <= limit + 1e-9:
        return Decision.PASS, f"{said}; {100 * limit:.4g} % are allowed"
    if _at_least(looped, len(answers), limit) <= _ALPHA:
        return Decision.FAIL, f"{said}; more than the {100 * limit:.4g} % that are allowed"
    return Decision.INCONCLUSIVE, f"inconclusive: {said}; too few answers to tell whether more than {100 * limit:.4g} % do"


def _at_least(count: int, trials: int, rate: float) -> float:
    """Return the probability of `count` or more of `trials` at `rate` each (binomial)."""
    return 1.0 - sum(comb(trials, fewer) * rate**fewer * (1.0 - rate) ** (trials - fewer) for fewer in range(count))


def _answered(report: TrialReport) -> tuple[Sample, ...]:
    """Return the answers that a benchmark's report lists, as far as loops are concerned; those that could not be judged are left out."""
    samples = (
        Sample(
            row["task_id"], row["sampling"], row["index"], 0, "", "", row["finish_reason"], 0, row["completion_tokens"], None,
            row["seconds"], RunOutcome(row["outcome"]), flaws=tuple(map(Flaw, row["flaws"])),
        )
        for row in report.detail.get("rows", ())
    )  # fmt: skip
    return judged(samples)


@dataclass(frozen=True, slots=True)
class _Timing:
    clock: Clock
    begin: float


def _answers(kind: str, ask: Callable[[], Generated]) -> Finding:
    hint = "Try the model in transformers with its own chat template, correct it, and submit again"
    try:
        text = ask().text
    except Refused as error:
        return Finding.failed(_UNANSWERED[kind], f"the engine refuses a {kind} request: {error.what}", hint)
    if text.replace(_UNDECODABLE, "").strip():
        return Finding(f"{kind}_answers", passed=True)
    what = "is not UTF-8 text" if _UNDECODABLE in text else "is empty"
    return Finding.failed(_UNANSWERED[kind], f"the {kind} answer {what}", hint)


def _answers_by_defaults(engine: EngineClient) -> Finding:
    """Ask without `max_tokens` until an answer is long enough to judge by; the last may be short."""
    for text in _LONG_ANSWERS:
        try:
            answer = _chat(({"role": "user", "content": text},), lambda messages: engine.chat_by_defaults(messages, enough=_DEFAULT_TOKENS))
        except Refused as error:
            return Finding.failed(
                Reason.NO_DEFAULT_CHAT,
                f"the engine refuses a chat that sets neither length nor sampling: {error.what}",
                "Correct or remove the value in generation_config.json and submit again",
            )
        if answer.finish_reason == "length" and answer.completion_tokens < _DEFAULT_TOKENS:
            return Finding.failed(
                Reason.DEFAULT_ANSWERS_CUT,
                f"a chat without max_tokens is cut after {answer.completion_tokens} tokens; at least {_DEFAULT_TOKENS} are required",
                "Raise or remove max_new_tokens in generation_config.json and submit again",
            )
        if answer.completion_tokens >= _TELLING_TOKENS:
            break
    return Finding("default_chat_answers", passed=True)


def _chat(messages: _Messages, ask: Callable[[_Messages], Generated]) -> Generated:
    """Ask; where the template refuses a conversation without a system message, ask with one. Raises Refused when it takes neither."""
    try:
        return ask(messages)
    except Refused:
        return ask((_SYSTEM, *messages))


def _report(
    version: VersionId,
    kind: TrialKind,
    key: str,
    findings: tuple[Finding, ...],
    timing: _Timing,
    numbers: dict[str, float] | None = None,
) -> TrialReport:
    decision = Decision.PASS if all(finding.passed for finding in findings) else Decision.FAIL
    seconds = timing.clock.monotonic() - timing.begin
    return TrialReport(version, kind, key, decision, findings, numbers or {}, {}, seconds, timing.clock.now())
