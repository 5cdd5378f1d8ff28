"""The short trials on the dark candidate: does it answer, how fast, and does it fall into loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from core.errors import Refused
from core.ids import VersionId
from core.ports.clock import Clock, SystemClock
from core.settings import TrialPolicy
from core.versions import Decision, Finding, TrialKind, TrialReport
from evals.engine_client import EngineClient, Generated

_HELLO = ({"role": "user", "content": "Hello"},)
_SMOKE_TOKENS = 64
_LATENCY_TOKENS = 32
_LATENCY_REQUESTS = 5
_UNDECODABLE = "\ufffd"


def smoke(engine: EngineClient, version: VersionId, clock: Clock | None = None) -> TrialReport:
    """Ask for one chat answer and one completion; each has to be text. Transient errors of the engine pass through."""
    time = clock or SystemClock()
    begin = time.monotonic()
    findings = (
        _answers("chat", lambda: engine.chat(_HELLO, max_tokens=_SMOKE_TOKENS)),
        _answers("completion", lambda: engine.complete("def ", max_tokens=_SMOKE_TOKENS)),
    )
    return _report(version, TrialKind.SMOKE, "smoke-v1", findings, _Timing(time, begin))


def latency(engine: EngineClient, version: VersionId, policy: TrialPolicy, clock: Clock | None = None) -> TrialReport:
    """Measure an idle engine one request at a time: median time to first token, and tokens per second of whole answers.

    Of whole answers, because engines send several tokens in one event: a rate from the first event on would say nothing.
    """
    time = clock or SystemClock()
    begin = time.monotonic()
    engine.chat(_HELLO, max_tokens=_LATENCY_TOKENS)  # warms up: the first request of this shape pays for what is compiled or cached
    answers = [engine.chat(_HELLO, max_tokens=_LATENCY_TOKENS) for _ in range(_LATENCY_REQUESTS)]
    ttft_s = median(answer.ttft_s for answer in answers)
    rate = median(answer.completion_tokens / answer.seconds if answer.seconds > 0 else 0.0 for answer in answers)
    numbers = {"ttft_s": ttft_s, "tokens_per_s": rate, "requests": float(len(answers))}
    slow = ttft_s > policy.max_ttft_s
    said = f"the median time to first token of the idle engine is {ttft_s:.3f} s"
    finding = Finding(
        "slow_first_token" if slow else "first_token",
        passed=not slow,
        reason=f"{said}, above {policy.max_ttft_s:g} s" if slow else said,
        hint="submit a smaller or quantised model, or ask an operator about SEATRIAL_TRIALS_MAX_TTFT_S" if slow else "",
    )
    return _report(version, TrialKind.LATENCY, "idle-v1", (finding,), _Timing(time, begin), numbers)


def degeneration(benchmark: TrialReport, stable: TrialReport | None, policy: TrialPolicy, clock: Clock | None = None) -> TrialReport:
    """Judge the part of benchmark answers that end in an exact loop: at most `max_loop_rate` above the stable version's own."""
    time = clock or SystemClock()
    rate = benchmark.numbers["loop_rate"]
    own = stable.numbers["loop_rate"] if stable is not None else 0.0
    allowed = min(1.0, own + policy.max_loop_rate)
    degenerate = rate > allowed + 1e-9
    answers = benchmark.numbers.get("samples", benchmark.numbers["problems"])
    said = f"{rate * answers:.0f} of {answers:.0f} benchmark answers end in a loop (rate {rate:.2f})"
    finding = Finding(
        "degenerate_answers" if degenerate else "no_degeneration",
        passed=not degenerate,
        reason=f"{said}; at most {allowed:.2f} is allowed here" if degenerate else said,
        hint="look at the looped answers in the benchmark's report; more training or another sampling default helps" if degenerate else "",
    )
    numbers = {"loop_rate": rate, "allowed": allowed, "stable_loop_rate": own}
    timing = _Timing(time, time.monotonic())
    return _report(benchmark.version, TrialKind.DEGENERATION, benchmark.key, (finding,), timing, numbers)


@dataclass(frozen=True, slots=True)
class _Timing:
    clock: Clock
    begin: float


def _answers(kind: str, ask: Callable[[], Generated]) -> Finding:
    hint = "try the model in transformers with its own chat template; mend it and submit again"
    try:
        text = ask().text
    except Refused as error:
        return Finding(f"no_{kind}", passed=False, reason=f"the engine takes no {kind} request: {error.what}", hint=hint)
    if text.replace(_UNDECODABLE, "").strip():
        return Finding(f"{kind}_answers", passed=True)
    what = "bytes that are no text" if _UNDECODABLE in text else "nothing"
    return Finding(f"no_{kind}", passed=False, reason=f"the {kind} answer is {what}", hint=hint)


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
