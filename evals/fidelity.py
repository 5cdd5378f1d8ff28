"""The fidelity trial compares the probabilities of an engine with a reference of the version.

The measure is the Kullback-Leibler divergence of the engine's next-token distribution q from the reference's p, in nats, over the
reference's most probable tokens and one bucket with the rest. Merging tokens never increases the divergence (log-sum inequality; Cover
and Thomas, Elements of Information Theory, 2nd edition, theorem 2.7.1), so the measured value is a lower bound. Unlike differences of
log-probabilities it gives improbable tokens, whose logarithms are noise in 16 bits, no weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from core.errors import Refused
from core.fidelity import Likely, Reference, ReferencePrompt
from core.ports.clock import Clock, SystemClock
from core.reasons import Reason
from core.versions import Decision, EngineNeeds, Finding, ModelVersion, TrialKind, TrialReport
from evals.engine_client import Continued, EngineClient

_KEY = "fidelity-v1"
_LIMITS = {"float32": 0.0005, "float16": 0.001, "bfloat16": 0.01}
_QUANTIZED = 0.2
"""Largest mean divergence, in nats a token. docs/fidelity.md lists the measurements of correct and faulty engines."""
_LEAST = 1e-30
_NO_REFERENCE = Reference("", unavailable="the version was imported by a release without this trial")
_HINT = (
    "Compare the model's answers in transformers; where they are right there, report it to the operator: the engine computes this model "
    "wrongly on this hardware or in this data type"
)


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far an engine is from the reference: nats at each position, of the prompts that it read and of the tokens that it generated."""

    prefill: tuple[float, ...] = ()
    decode: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """The larger of both means: the two come from different kernels."""
        return max(_mean(self.prefill), _mean(self.decode))

    def __add__(self, other: Divergence) -> Divergence:
        """Return the positions of both."""
        return Divergence(self.prefill + other.prefill, self.decode + other.decode)


def fidelity(engine: EngineClient, version: ModelVersion, reference: Reference | None, clock: Clock | None = None) -> TrialReport:
    """Compare the engine with the reference. Fails where the mean divergence, of prompts or of answers, exceeds the data type's limit.

    Without a reference, where the engine's context holds none of its prompts, and where the engine does not state the probabilities of
    prompts, the trial passes and its finding states that. Transient errors of
    the engine pass through.
    """
    time = clock or SystemClock()
    begin = time.monotonic()
    known = reference or _NO_REFERENCE
    room = engine.context() if known.prompts else 0
    fitting = [prompt for prompt in known.prompts if len(prompt.tokens) + max(1, len(prompt.answer)) <= room]
    found, why_not = _compared(engine, fitting)
    limit = limit_of(version.needs)
    why_not = known.unavailable or why_not or f"no prompt of the reference fits into {room} tokens"
    finding = _finding(found, limit, version.needs, why_not)
    decision = Decision.PASS if finding.passed else Decision.FAIL
    detail = {"made_by": known.made_by}
    seconds = time.monotonic() - begin
    return TrialReport(version.id, TrialKind.FIDELITY, _KEY, decision, (finding,), _numbers(found, limit), detail, seconds, time.now())


def _compared(engine: EngineClient, prompts: Sequence[ReferencePrompt]) -> tuple[Divergence, str]:
    """Return how far the engine is from the reference, or why that cannot be measured."""
    found = Divergence()
    for prompt in prompts:
        try:
            found += diverges(prompt, engine.distributions(prompt.tokens, max(1, len(prompt.answer))))
        except Refused as error:
            return Divergence(), f"the engine does not state the probabilities of a prompt: {error.what}"
    return found, ""


def limit_of(needs: EngineNeeds) -> float:
    """Return the largest mean divergence (nats a token) that rounding explains in the engine's data type."""
    return _QUANTIZED if needs.quantized else _LIMITS.get(needs.dtype, _LIMITS["bfloat16"])


def diverges(prompt: ReferencePrompt, engine: Continued) -> Divergence:
    """Compare an engine's distributions with the reference's at one prompt.

    Generated tokens are compared up to the first that differs, and with it.
    """
    read = len(prompt.tokens) - 1
    prefill = tuple(kl(p, q) for p, q in zip(prompt.top[:read], engine.prompt[1:], strict=True))
    return Divergence(prefill, tuple(_decoded(prompt, engine, read)))


def kl(reference: Sequence[Likely], engine: Mapping[int, float]) -> float:
    """Return a lower bound of KL(reference || engine) in nats. `engine` holds the log-probabilities of its own most probable tokens.

    A token that the engine does not list is at most as probable as its least probable listed one, and takes that value.
    """
    least = min(engine.values(), default=0.0)
    pairs = [(math.exp(one.logprob), math.exp(engine.get(one.token, least))) for one in reference]
    rest = (max(0.0, 1.0 - sum(p for p, _ in pairs)), max(0.0, 1.0 - sum(q for _, q in pairs)))
    return max(0.0, sum(p * math.log(p / max(q, _LEAST)) for p, q in [*pairs, rest] if p > _LEAST))


def _decoded(prompt: ReferencePrompt, engine: Continued, read: int) -> Iterator[float]:
    for token, expected, p, q in zip(engine.tokens, prompt.answer, prompt.top[read:], engine.generated, strict=False):
        yield kl(p, q)
        if token != expected:  # what follows stands on other tokens
            return


def _finding(found: Divergence, limit: float, needs: EngineNeeds, why_not: str) -> Finding:
    if not found.prefill and not found.decode:
        return Finding("fidelity_skipped", passed=True, reason=f"not compared with a reference: {why_not}")
    kind = f"{needs.dtype}, quantised" if needs.quantized else needs.dtype
    said = f"the engine's probabilities differ from the weights' by {found.mean:.2g} nats a token; the limit is {limit:g} ({kind})"
    if found.mean > limit:
        return Finding.failed(Reason.ENGINE_DIFFERS, said, _HINT)
    return Finding("fidelity", passed=True, reason=said)


def _numbers(found: Divergence, limit: float) -> dict[str, float]:
    if not found.prefill and not found.decode:
        return {}
    positions = float(len(found.prefill) + len(found.decode))
    return {
        "prefill_divergence": _mean(found.prefill),
        "decode_divergence": _mean(found.decode),
        "divergence_limit": limit,
        "positions": positions,
    }


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
